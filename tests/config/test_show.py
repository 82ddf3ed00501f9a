"""What is refused of the settings of mode=show."""

import re
from typing import Any

import pytest

from sdft_ray.config import Choice, ShowConfig
from sdft_ray.errors import ConfigError


def test_by_default_three_rows_are_drawn_and_no_page_is_written() -> None:
    show = ShowConfig()
    assert (show.ids, show.choose, show.num_rows, show.html) == ([], Choice.RANDOM, 3, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_rows": 0}, "show.num_rows=0: must be at least 1; set show.num_rows=1 or more"),
        ({"out": "page.txt"}, "show.out=page.txt: is where the page goes; let it end in .html"),
        ({"out": "my.html"}, "show.out=my.html: names a page, but show.html=false writes none; set show.html=true"),
        ({"ids": ["a", "b", "a"]}, "show.ids=['a', 'b', 'a']: names an example twice; name every example once"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_its_remedy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        ShowConfig(**settings)
