"""The examples of launch/kuberay/ are what the command renders today."""

import pytest

from tests.targets.kuberay.examples import EXAMPLES, FOLDER, text


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_its_command_renders(name: str) -> None:
    again = "run python -m tests.targets.kuberay.examples"
    assert (FOLDER / f"{name}.yaml").read_text() == text(name), again
