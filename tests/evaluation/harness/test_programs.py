from sdft_ray.evaluation.harness.programs import passes


def test_a_program_passes_when_its_last_line_is_reached() -> None:
    assert passes("def one():\n    return 1\nassert one() == 1")
    assert not passes("def one():\n    return 2\nassert one() == 1")
    assert not passes("def one(:")


def test_a_program_that_leaves_before_its_tests_has_not_passed() -> None:
    assert not passes("import sys\nsys.exit(0)\nassert False")
    assert not passes("import os\nos._exit(0)")


def test_a_program_sees_no_secret_of_the_environment_and_a_folder_of_its_own() -> None:
    assert passes("import os\nassert 'HOME' not in os.environ and os.listdir() == []")
