"""Where a completion marks its answer: in an <answer> tag or a box."""

import re

_TAG = re.compile(r"<(?P<end>/?)answer>", re.IGNORECASE)
_BOX = re.compile(r"\\boxed\s*\{(?:\s*\\(?:text|textbf|mathrm|mathbf)\s*\{)?(?P<content>[^{}\n]*)\}")


def marked_answer(text: str) -> str | None:
    r"""What stands in the last complete <answer>...</answer>, else in the last \boxed{...}; None where neither is.

    A tag that was opened and never closed is no answer: the completion was cut, or goes on.
    """
    begin, content = None, None
    for tag in _TAG.finditer(text):
        if not tag["end"]:
            begin = tag.end()
        elif begin is not None:
            begin, content = None, text[begin : tag.start()]
    if content is not None:
        return content
    boxes = [box["content"] for box in _BOX.finditer(text)]
    return boxes[-1] if boxes else None
