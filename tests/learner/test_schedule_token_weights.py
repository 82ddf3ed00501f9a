"""Token weights against the means they stand for.

Legend: B sequences of the global batch, n_i counted tokens of sequence i.
"""

import subprocess
import sys

import pytest

from sdft_ray.learner.schedule import token_weights

COUNTS = [4, 0, 1, 10]


def test_sequence_mean_gives_one_over_sequences_times_counted_tokens():
    assert token_weights(COUNTS, "sequence_mean", 4) == [1 / 16, 0.0, 1 / 4, 1 / 40]


def test_token_mean_gives_every_counted_token_the_same_share():
    assert token_weights(COUNTS, "token_mean", 4) == [1 / 15, 0.0, 1 / 15, 1 / 15]


def test_the_weights_add_up_to_one_unless_a_sequence_counts_nothing():
    def total(counts, mode):
        return sum(
            weight * count for weight, count in zip(token_weights(counts, mode, len(counts)), counts, strict=True)
        )

    assert total(COUNTS, "token_mean") == pytest.approx(1.0)
    assert total(COUNTS, "sequence_mean") == pytest.approx(3 / 4)
    assert total([3, 7, 2], "sequence_mean") == pytest.approx(1.0)


@pytest.mark.parametrize("mode", ["sequence_mean", "token_mean"])
def test_a_batch_without_counted_tokens_weighs_exactly_nothing(mode):
    assert token_weights([0, 0], mode, 2) == [0.0, 0.0]
    assert token_weights([], mode, 0) == []


def test_sequence_mean_knows_the_weight_of_a_sequence_before_the_others_are_there():
    one_by_one = [token_weights([count], "sequence_mean", 4)[0] for count in COUNTS]
    assert one_by_one == token_weights(COUNTS, "sequence_mean", 4)


def test_token_mean_refuses_a_part_of_the_batch():
    with pytest.raises(ValueError, match="all 4 sequences, not 3"):
        token_weights(COUNTS[:3], "token_mean", 4)


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="-2"):
        token_weights([3, -2], "token_mean", 2)


def test_an_unknown_mode_is_refused_with_the_ones_there_are():
    with pytest.raises(ValueError, match=r"'sum'.*sequence_mean.*token_mean"):
        token_weights([3], "sum", 1)


def test_the_driver_can_compute_weights_without_importing_torch():
    program = "import sys; import sdft_ray.learner.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
