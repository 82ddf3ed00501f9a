"""Draws the pictures of docs/architecture.md as SVG with a ground of its own, for light and dark.

`python docs/site/pictures.py` writes them; tests/test_architecture.py holds files and names to the code.
"""

from pathlib import Path
from xml.sax.saxutils import escape

DOCS = Path(__file__).parents[1]
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; fill: #1b1f24 }
.name { font-weight: 600 }
.note { fill: #5c636b; font-size: 12px }
.lane { fill: #f3f3ef }
.ground { fill: #fdfdfc }
.box { fill: #ffffff; stroke: #8a919a }
.driver { stroke: #5c636b } .rollout { stroke: #0072b2 } .teacher { stroke: #a4478a } .learner { stroke: #00875f }
.box { stroke-width: 1.5 }
.v0 { fill: #dbe9f4; stroke: #0072b2 } .v1 { fill: #f6e3d3; stroke: #d55e00 } .v2 { fill: #d9efe4; stroke: #00875f }
.v3 { fill: #efdfeb; stroke: #a4478a }
.arrow { fill: none; stroke: #1b1f24; stroke-width: 1.3 }
.tensors { fill: none; stroke: #d55e00; stroke-width: 3.5 }
.head { fill: #1b1f24 } .tensorhead { fill: #d55e00 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e6e3 } .note { fill: #a5acb5 }
  .lane { fill: #20242a } .ground { fill: #15181c } .box { fill: #262b32 }
  .driver { stroke: #a5acb5 } .rollout { stroke: #56b4e9 } .teacher { stroke: #d98cc4 } .learner { stroke: #3cc79a }
  .v0 { fill: #12384f; stroke: #56b4e9 } .v1 { fill: #4d2a0c; stroke: #f0883e } .v2 { fill: #0e3f30; stroke: #3cc79a }
  .v3 { fill: #42233a; stroke: #d98cc4 }
  .arrow { stroke: #e6e6e3 } .head { fill: #e6e6e3 } .tensors { stroke: #f0883e } .tensorhead { fill: #f0883e }
}
"""
MARKS = (
    '<defs><marker id="{id}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="{size}" markerHeight="{size}" '
    'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" class="{id}"/></marker></defs>'
)
LINE = 17  # height of a line of text


class Picture:
    """A drawing whose parts are added one by one."""

    def __init__(self, name: str, title: str, description: str, width: int, height: int):
        self.path = DOCS / f"{name}.svg"
        self._end = "</svg>\n"
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}"><title>{escape(title)}</title><desc>{escape(description)}</desc>',
            f"<style>{STYLE}</style>",
            MARKS.format(id="head", size=7) + MARKS.format(id="tensorhead", size=3),
            f'<rect width="{width}" height="{height}" rx="6" class="ground"/>',
        ]

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        """One line of text, its base line at y."""
        self._parts.append(f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>')

    def lane(self, x: float, y: float, width: float, height: float) -> None:
        """A ground for what belongs together."""
        self._parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" class="lane"/>')

    def box(self, x: float, y: float, width: float, kind: str, *lines: str, height: float = 0) -> None:
        """A box with a name in its first line and notes below it."""
        height = height or LINE * len(lines) + 13
        self._parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" class="box {kind}"/>')
        top = y + (height - LINE * len(lines)) / 2 + 13
        for number, words in enumerate(lines):
            self.text(x + width / 2, top + LINE * number, words, "note" if number else "name", "middle")

    def arrow(
        self, *points: tuple[float, float], label: str = "", at: tuple[float, float] = (0, 0), wide: bool = False
    ) -> None:
        """A line through points with a head at its end; wide where tensors take it."""
        path = "M" + " L".join(f"{x} {y}" for x, y in points)
        kind, head = ("tensors", "tensorhead") if wide else ("arrow", "head")
        self._parts.append(f'<path d="{path}" class="{kind}" marker-end="url(#{head})"/>')
        if label:
            self.text(*at, label, "note", "middle")

    def svg(self) -> str:
        """The file."""
        return "\n".join(self._parts) + self._end


def data_way() -> Picture:
    """One example through one step."""
    picture = Picture(
        "data-way",
        "The data's way",
        "An example goes from the driver to a rollout worker, its rollout to a teacher worker, and the sample to the "
        "learner; tensors go from teacher worker to learner rank by themselves.",
        1025,
        660,
    )
    for x, width, name in (
        (10, 215, "driver"),
        (290, 205, "rollout worker"),
        (540, 205, "teacher worker"),
        (790, 225, "learner rank"),
    ):
        picture.lane(x, 10, width, 640)
        picture.text(x + width / 2, 32, name, "name", "middle")
    picture.box(20, 50, 195, "driver", "ExampleStream", "TokenizedExample, in order")
    picture.box(20, 140, 195, "driver", "RolloutPool", "hands out, retries")
    picture.box(20, 250, 195, "driver", "TeacherPool", "hands out, retries")
    picture.box(20, 370, 195, "driver", "SampleBuffer", "batches in ticket order")
    picture.box(20, 460, 195, "driver", "LearnerGroup", "rounds of microbatches")
    picture.box(20, 585, 195, "driver", "StepReport", "to the tracker")
    picture.box(300, 140, 185, "rollout", "RolloutWorker", "SamplingEngine:", "y ~ student(x)")
    picture.box(550, 250, 185, "teacher", "TeacherWorker", "reads x, demonstration, y")
    picture.box(550, 350, 185, "teacher", "PayloadPacker", "hidden states")
    picture.box(800, 350, 185, "learner", "TeacherHeads", "hidden states to q")
    picture.box(800, 445, 185, "learner", "LearnerRank", "its Microbatch")
    picture.box(800, 515, 185, "learner", "Student", "hidden states to p")
    picture.box(800, 585, 185, "learner", "Objective", "divergence(p, q), AdamW")
    picture.arrow((117, 97), (117, 140))
    picture.arrow((215, 155), (300, 155), label="1  prompt", at=(257, 148))
    picture.arrow((300, 185), (257, 185), (257, 225), (117, 225), (117, 250), label="2  Rollout", at=(185, 218))
    picture.arrow((215, 264), (550, 264), label="3  x, demonstration, y", at=(390, 257))
    picture.arrow((642, 297), (642, 350))
    picture.arrow((550, 373), (390, 373), (390, 287), (215, 287))
    picture.text(302, 306, "4  TeacherScores,", "note", "middle")
    picture.text(302, 322, "a reference", "note", "middle")
    picture.arrow((117, 297), (117, 370), label="Sample", at=(145, 338))
    picture.arrow((117, 417), (117, 460), label="5  a batch", at=(152, 443))
    picture.arrow((215, 483), (757, 483), (757, 468), (800, 468))
    picture.text(515, 476, "6  Microbatch, a part for each rank", "note", "middle")
    picture.arrow((735, 373), (800, 373), wide=True)
    picture.text(767, 340, "HiddenPayload", "note", "middle")
    picture.arrow((985, 373), (1002, 373), (1002, 608), (985, 608))
    picture.arrow((892, 492), (892, 515))
    picture.arrow((892, 562), (892, 585))
    picture.arrow((800, 608), (215, 608), label="7  RankReport", at=(515, 601))
    picture.text(310, 640, "thick: tensors, from process to process", "note")
    return picture


def weights_way() -> Picture:
    """From the optimizer's masters to every worker."""
    picture = Picture(
        "weights-way",
        "The weights' way",
        "Fragments of the learner's fp32 masters become buckets, student and average; a channel carries one "
        "publication a version to the engines and the teachers.",
        980,
        330,
    )
    for x, name in ((10, "learner rank"), (335, "channel"), (660, "workers")):
        picture.lane(x, 10, 310, 310)
        picture.text(x + 155, 32, name, "name", "middle")
    picture.box(30, 50, 270, "learner", "Fragment", "fp32 masters, in the parts that ZeRO made")
    picture.box(30, 140, 270, "learner", "Student", "the weights behind this step")
    picture.box(30, 230, 270, "learner", "TeacherAverage", "ema_decay * old +", "(1 - ema_decay) * student")
    picture.box(355, 140, 270, "driver", "Bucket, Bucket, ...", "in the workers' dtype")
    picture.box(
        355, 230, 270, "driver", "WeightChannel", "one Publication a version: who needs", "which weights is asked once"
    )
    picture.box(
        680, 120, 270, "rollout", "InferenceEngine", "of a rollout worker: the student,", "in place, by WeightLoading"
    )
    picture.box(680, 230, 270, "teacher", "TeacherWorker", "the average, or the student", "where teacher.weights=LIVE")
    picture.arrow((165, 97), (165, 140))
    picture.arrow((120, 97), (120, 120), (20, 120), (20, 260), (30, 260))
    picture.arrow((300, 163), (355, 163), wide=True)
    picture.arrow((300, 262), (328, 262), (328, 175), (355, 175), wide=True)
    picture.arrow((490, 187), (490, 230))
    picture.arrow((625, 250), (652, 250), (652, 152), (680, 152), wide=True)
    picture.arrow((625, 270), (680, 270), wide=True)
    picture.text(815, 60, "every worker that serves", "note", "middle")
    picture.text(815, 77, "acknowledges the version,", "note", "middle")
    picture.text(815, 94, "and only then the next samples begin", "note", "middle")
    return picture


VERSIONS = ("v0", "v1", "v2", "v3")


def weight_versions() -> Picture:
    """Which weights make a sample, on-policy and one step behind."""
    picture = Picture(
        "weight-versions",
        "Weight versions in time",
        "With max_staleness=0 sampling, scoring and learning take turns, and a batch is made by the newest weights. "
        "With max_staleness=1 the next batch is sampled while the learner takes its step, by older weights.",
        980,
        430,
    )
    on_policy = [
        ("sampling", "rollout", [(0, 150, 0, "batch 1"), (300, 150, 1, "batch 2"), (600, 150, 2, "batch 3")]),
        ("scoring", "teacher", [(40, 140, 0, "batch 1"), (340, 140, 1, "batch 2"), (640, 140, 2, "batch 3")]),
        ("learning", "learner", [(180, 90, 1, "step 1"), (480, 90, 2, "step 2"), (760, 90, 3, "step 3")]),
    ]
    ahead = [
        ("sampling", "rollout", [(0, 260, 0, "batches 1 and 2"), (300, 165, 1, "batch 3"), (500, 165, 2, "batch 4")]),
        ("scoring", "teacher", [(40, 230, 0, "batches 1 and 2"), (320, 155, 1, "batch 3"), (520, 155, 2, "batch 4")]),
        ("learning", "learner", [(180, 90, 1, "step 1"), (380, 90, 2, "step 2"), (580, 90, 3, "step 3")]),
    ]
    for top, title, rows, loads in (
        (
            20,
            "max_staleness=0: on-policy. Every sample of a batch is made by the newest weights.",
            on_policy,
            (285, 585),
        ),
        (
            225,
            "max_staleness=1: step 2 trains on batch 2, which v0 has made. Samples are weighed for that.",
            ahead,
            (285, 485),
        ),
    ):
        picture.text(20, top + 12, title, "name")
        for number, (name, _, spans) in enumerate(rows):
            y = top + 25 + 45 * number
            picture.lane(100, y, 860, 38)
            picture.text(90, y + 24, name, "note", "end")
            for start, width, version, words in spans:
                picture.box(108 + start, y + 4, width, VERSIONS[version], f"{words}: {VERSIONS[version]}", height=30)
        for x in loads:
            picture.arrow((108 + x, top + 155), (108 + x, top + 25))
            picture.text(108 + x, top + 170, "load", "note", "middle")
    picture.text(
        20,
        422,
        "Colours are versions: of weights that sample and score, of those that a step makes. Widths say nothing.",
        "note",
    )
    return picture


PICTURES = (data_way, weights_way, weight_versions)

if __name__ == "__main__":
    for draw in PICTURES:
        drawn = draw()
        drawn.path.write_text(drawn.svg(), encoding="utf-8")
