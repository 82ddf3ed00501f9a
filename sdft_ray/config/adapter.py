"""Settings of low-rank adapters, which are trained in place of a network's own weights (docs/adapters.md)."""

from dataclasses import dataclass, field
from enum import Enum, auto

from sdft_ray.config.validation import at_least, positive, require


class AdapterKind(Enum):
    """What is trained."""

    NONE = auto()  # every weight of the network
    LORA = auto()  # two factors of low rank beside each target, whose product is added to its weight


@dataclass(kw_only=True)
class AdapterConfig:
    """Which adapter the network is given."""

    kind: AdapterKind = AdapterKind.NONE
    rank: int = 8  # of the update of each target, 1 or more
    alpha: float = 16.0  # above 0; the update is alpha / rank times the product of the factors
    targets: list[str] = field(
        default_factory=list
    )  # linear layers by the end of their names, such as q_proj; [] is every one of the decoder's layers
    dropout: float = 0.0  # share of a target's inputs that the adapter misses in training, in [0, 1)

    def __post_init__(self) -> None:
        at_least(1, "model.adapter.rank", self.rank)
        positive("model.adapter.alpha", self.alpha)
        require(
            0 <= self.dropout < 1,
            "model.adapter.dropout",
            self.dropout,
            "must lie in [0, 1): with 1 the adapter would learn nothing",
            "set model.adapter.dropout=0",
        )
        for target in self.targets:
            require(bool(target.strip()), "model.adapter.targets", self.targets, "holds an empty name", "remove it")
        if self.kind is AdapterKind.NONE:
            self._refuse_unused()

    def _refuse_unused(self) -> None:
        """Refuses settings of an adapter that there is not."""
        for name, default in (("rank", 8), ("alpha", 16.0), ("targets", []), ("dropout", 0.0)):
            require(
                getattr(self, name) == default,
                f"model.adapter.{name}",
                getattr(self, name),
                "is said of an adapter, but model.adapter.kind=NONE trains the network's own weights",
                "set model.adapter.kind=LORA",
            )

    @property
    def is_on(self) -> bool:
        """True when an adapter is trained and nothing else."""
        return self.kind is not AdapterKind.NONE

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied with."""
        return self.alpha / self.rank


@dataclass(kw_only=True)
class ExportConfig:
    """What is written besides model/ when training has ended."""

    merged: bool = False  # of an adapter, the whole model with the update added, in merged/

    def check_fit(self, adapter: AdapterConfig) -> None:
        """Refuses a merged model where nothing is to be merged."""
        require(
            adapter.is_on or not self.merged,
            "export.merged",
            self.merged,
            "merges an adapter, but model.adapter.kind=NONE exports the whole model anyway",
            "leave it out",
        )
