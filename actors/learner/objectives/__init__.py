"""The objectives of alignment, one file each. What they learn from is a group: samples of a prompt, ranked by reward.

A preference pair is a group of two. To add an objective, write a module here with a function ``term`` of the type
``Term`` and enter its name in ``OBJECTIVES``. This module imports no torch: the options need the table only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from tangoflux.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Value = float | int | None
"""The value of an objective's option."""


@dataclass(frozen=True)
class ObjectiveInfo:
    """What the options need to know of an objective.

    Attributes:
        description: for the help.
        term: the name of its own term in metrics, which have ``<term>_loss``.
        samples: which of a group's samples it trains on: the best and the worst, the best ``top_k``, or all.
        options: its own options with their defaults.
        winner_weight: default of the option that all have.
    """

    description: str
    term: str
    samples: Literal["pair", "top", "all"]
    options: Mapping[str, Value]
    winner_weight: float = 0.0


BETA = {"beta": 30.0}
CLIP = {"advantage_clip": 5.0}

OBJECTIVES = {
    "crpo": ObjectiveInfo("dpo_fm plus the flow-matching loss of the chosen sample", "dpo", "pair", BETA, 0.1),
    "dpo_fm": ObjectiveInfo("DPO for flow matching", "dpo", "pair", BETA),
    "ipo": ObjectiveInfo("the pair's margin drawn to a half", "ipo", "pair", BETA),
    "kto": ObjectiveInfo("samples above their group's mean against those below, each alone", "kto", "all", BETA),
    "expert_iteration": ObjectiveInfo(
        "flow matching on each group's best", "expert", "top", {"top_k": 1, "temperature": None}
    ),
    "dgpo": ObjectiveInfo("DPO of the better against the worse part of a group", "dgpo", "all", BETA | CLIP),
    "awm": ObjectiveInfo("flow matching weighted by advantage", "awm", "all", BETA | CLIP | {"ratio_clip": 0.2}),
    "diffusion_nft": ObjectiveInfo(
        "flow matching of an implicit better and an implicit worse policy", "nft", "all", {"nft_beta": 1.0} | CLIP
    ),
}
"""Each objective by its name, which is its module's."""

OWN_OPTIONS = tuple(dict.fromkeys(option for info in OBJECTIVES.values() for option in info.options))
"""Options that only some objectives have."""

COMMON_OPTIONS = ("winner_weight", "anchor_weight", "guided_loss", "min_sigma")
"""Options that all objectives have."""

OPTIONS = (*OWN_OPTIONS, *COMMON_OPTIONS)
"""All options of objectives."""


@dataclass(frozen=True)
class Objective:
    """An objective with its options.

    The loss of a group is the objective's own term + ``winner_weight`` * the flow-matching loss of the best sample +
    ``anchor_weight`` * the mean squared difference between the velocities of policy and reference at the samples.

    Attributes:
        options: its own, complete.
        guided_loss: whether velocities have the guidance that the samples were drawn with.
        min_sigma: the sigmas of the loss are those of the sampler's steps from this up; None: logit-normal on (0, 1).
    """

    name: str
    options: Mapping[str, Value]
    winner_weight: float = 0.0
    anchor_weight: float = 0.0
    guided_loss: bool = True
    min_sigma: float | None = None

    @property
    def info(self) -> ObjectiveInfo:
        """Its entry in ``OBJECTIVES``."""
        return OBJECTIVES[self.name]

    @property
    def needs_pairs_only(self) -> bool:
        """Whether the best and the worst sample of a group are all that it learns from."""
        return self.info.samples == "pair"

    @property
    def beta(self) -> float:
        """The scale of its implicit reward; 1 for an objective without one."""
        return self.options.get("beta") or 1.0

    def ranks(self, group_size: int) -> tuple[int, ...]:
        """The samples of a group that are trained on, by their rank, from the best, which is 0."""
        if self.info.samples == "pair":
            return 0, group_size - 1
        return tuple(range(int(self.options.get("top_k") or group_size)))

    def check_group_size(self, group_size: int) -> None:
        """Checks that the objective can learn from groups of this size.

        Raises:
            ConfigError: it wants more samples than a group has.
        """
        top_k = self.options.get("top_k") or 0
        if top_k > group_size:
            raise ConfigError(f"--top-k {top_k} is more than the {group_size} samples of a group; lower it")


def make_objective(name: str, given: Mapping[str, Any]) -> Objective:
    """An objective with the options that are given, otherwise its defaults.

    Args:
        given: values of ``OPTIONS``; None or absent where there is none.

    Raises:
        ConfigError: one is given that the objective does not have.
    """
    info, given = OBJECTIVES[name], {option: value for option, value in given.items() if value is not None}
    for option in OWN_OPTIONS:
        if option in given and option not in info.options:
            has = ", ".join(map(_flag, info.options))
            raise ConfigError(
                f"{_flag(option)} {given[option]:g} has no meaning for --objective {name}, which has {has}; leave it "
                "out or set it to none"
            )
    options = {option: given.get(option, default) for option, default in info.options.items()}
    common: dict[str, Any] = {"winner_weight": info.winner_weight}
    common |= {option: given[option] for option in COMMON_OPTIONS if option in given}
    return Objective(name, options, **common)


class GroupErrors(NamedTuple):
    """What is known of the K trained samples of B groups, from the best to the worst, at each group's noise and sigma.

    Attributes:
        policy: (K, B) squared velocity errors of the policy.
        reference: (K, B) those of the reference; without gradients, like all but ``policy`` and ``distance``.
        distance: (K, B) mean squared difference between the velocities of policy and reference.
        sigma: (B,).
        rewards: (N, B) rewards of all samples of the groups, from the highest to the lowest.
    """

    policy: Tensor
    reference: Tensor
    distance: Tensor
    sigma: Tensor
    rewards: Tensor


class Term(Protocol):
    """An objective's own term (B,) of B groups."""

    def __call__(self, errors: GroupErrors, **options: Any) -> Tensor:
        """``options`` are the objective's own."""
        ...


def load_term(name: str) -> Term:
    """The term of an objective; imports its module, and with it torch."""
    return import_module(f"{__name__}.{name}").term


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"
