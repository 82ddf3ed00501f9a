"""mode=top on the terminal: a frame a second until the run ends or Ctrl-C; one frame where there is no terminal."""

import sys
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sdft_ray.watch.frame import frame
from sdft_ray.watch.sources import Source

EVERY_S = 1.0


def watch(source: Source) -> None:
    """Shows a run until it has ended, whose last frame stays on the terminal; Ctrl-C leaves, and the run goes on."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without these signs shows others
    console = Console(highlight=False)
    look = source.look()
    if console.is_terminal and not look.state.has_ended:
        try:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while not look.state.has_ended:
                    live.update(_with_foot(frame(look, width=console.width, height=console.height - 1)), refresh=True)
                    time.sleep(EVERY_S)
                    look = source.look()
        except KeyboardInterrupt:
            console.print(f"{source.name} goes on; mode=top name={source.name} shows it again", soft_wrap=True)
            return
    console.print(frame(look, width=console.width), soft_wrap=True)


def _with_foot(text: Text) -> Text:
    return Text("\n", no_wrap=True).join([text, Text("Ctrl-C leaves; the run goes on", "dim")])
