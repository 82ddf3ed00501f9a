import gc

import pytest

from sdft_ray.workers.worker import importing


def test_an_import_collects_nothing_and_what_it_has_made_is_not_looked_at_again() -> None:
    frozen = gc.get_freeze_count()
    try:
        with importing():
            assert not gc.isenabled()
            made = [[number] for number in range(1000)]
        assert gc.isenabled() and gc.get_freeze_count() - frozen > len(made)
    finally:
        gc.unfreeze()


def test_garbage_is_collected_again_where_an_import_fails() -> None:
    try:
        with pytest.raises(ModuleNotFoundError), importing():
            __import__("no_such_module")
        assert gc.isenabled()
    finally:
        gc.unfreeze()
