"""What collection imports and makes stays to the end, millions of objects: nobody looks through them for garbage.

To look through them took a sixth of the collection's time.
"""

import gc


def pytest_configure() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries complain at the end of what they take for leaks
