"""What the model is asked to learn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from slm.core.config import Config, neutral


class DistillConfig(Config):
    """Learning from a teacher's distributions instead of, or beside, the text alone."""

    source: Literal["teacher", "store"] = "teacher"
    """Who is asked: the teacher, in memory beside the student; or what slm distill stored of it for these shards, which
    lies in the run or is named by artifacts.distill."""
    teacher: str = neutral("")
    """Checkpoint of the teacher: a run's folder, its train folder or one step of it, with this run's tokenizer. The run
    is made from its fingerprint, not its path. With a store that is there already it need not be named."""
    teacher_memory_bytes: dict[str, int] = neutral({})
    """What a teacher too large for one device may take of each, beside the student or to make a store, by the numbers
    of GPUs and cpu, such as {0: 40e9, cpu: 100e9}; the rest is read from the disk at each forward. Empty keeps it
    whole."""
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    """From the student's distribution to the teacher's: KL(p | q), which covers all that the teacher says; KL(q | p),
    which keeps to what it says most; or between the two, by beta."""
    beta: float = Field(0.5, gt=0, lt=1)
    """jsd: the share of the teacher in the mixture."""
    temperature: float = Field(1.0, gt=0)
    """Both logits are divided by it; the divergence counts its square times."""
    cross_entropy: float = Field(0.0, ge=0, lt=1)
    """The share of the text's own next token in the loss."""
    on_policy: float = Field(0.0, ge=0, le=1)
    """The chance (GKD's lambda) that in a step the student's own answers take the place of the text's; the share of the
    cross-entropy is 0 on these. A text without answers is continued from its middle."""
    on_policy_temperature: float = Field(1.0, gt=0)
    """At which the student writes its answers."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # a dictionary among the settings has none

    @model_validator(mode="after")
    def _settings_take_effect(self) -> DistillConfig:
        if self.divergence != "jsd" and self.beta != type(self).model_fields["beta"].default:
            raise ValueError(f"beta ({self.beta:g}) has no effect on {self.divergence}; leave it out")
        if not self.on_policy and self.on_policy_temperature != 1:
            raise ValueError("on_policy_temperature has no effect where on_policy is 0; leave it out")
        if self.on_policy and self.source == "store":
            raise ValueError(
                "on_policy needs the teacher itself, which knows what the student writes; set source=teacher"
            )
        return self


COMPARING = ("dpo", "ipo", "kto")
"""Losses that compare the model with a reference."""
SETTINGS_OF_LOSSES = {"label_smoothing": ("dpo", "simpo"), "gamma": ("simpo",), "wanted_weight": ("kto",),
                      "unwanted_weight": ("kto",), "reference": COMPARING}  # fmt: skip


class PreferenceConfig(Config):
    """Learning which of two answers is preferred, or which answers are wanted."""

    loss: Literal["dpo", "ipo", "orpo", "simpo", "kto"] = "dpo"
    """dpo (Rafailov et al. 2023, arXiv 2305.18290), ipo (Azar et al. 2023, 2310.12036), orpo (Hong et al. 2024,
    2403.07691), simpo (Meng et al. 2024, 2405.14734), kto (Ethayarajh et al. 2024, 2402.01306); orpo and simpo need no
    reference, kto takes answers with a label as well as pairs."""
    beta: float = Field(0.1, gt=0)
    """Times the log-ratios (dpo, kto), the mean log-probabilities (simpo: 2 to 10) or the log-odds (orpo); half the
    inverse of the margin aimed at (ipo)."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """dpo, simpo: the chance that a pair's answers were taken for one another (cDPO)."""
    gamma: float = Field(0.5, ge=0)
    """simpo: the margin that chosen answers should have, after beta."""
    wanted_weight: float = Field(1.0, ge=0)
    """kto: weight of answers that are wanted, or chosen."""
    unwanted_weight: float = Field(1.0, ge=0)
    """kto: weight of answers that are unwanted, or rejected."""
    reference: str = neutral("")
    """dpo, ipo, kto: checkpoint of the reference, with this run's tokenizer; empty takes train.initial. The run is made
    from its fingerprint, not its path."""

    @model_validator(mode="after")
    def _settings_take_effect(self) -> PreferenceConfig:
        for name, losses in SETTINGS_OF_LOSSES.items():
            if self.loss not in losses and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} ({getattr(self, name)}) has no effect on {self.loss}; leave it out")
        return self


class ObjectiveConfig(Config):
    """(model, batch) to loss."""

    kind: Literal["next_token", "distill", "preference"] = "next_token"
    """Cross-entropy of the next token of the same document, a teacher's distribution of it, or preferred answers."""
    distill: DistillConfig = DistillConfig()
    preference: PreferenceConfig = PreferenceConfig()
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each target that is spread evenly over the vocabulary; the loss that is reported stays without."""
    z_loss: float = Field(0.0, ge=0)
    """Weight of log(Z)^2, which keeps logits from drifting (PaLM uses 1e-4)."""

    @property
    def reads_store(self) -> bool:
        """Whether what is learned comes from a store that slm distill makes."""
        return self.kind == "distill" and self.distill.source == "store"

    @property
    def asks_teacher(self) -> bool:
        """Whether a teacher answers beside the student while it learns."""
        return self.kind == "distill" and self.distill.source == "teacher"

    def stand_in(self) -> ObjectiveConfig:
        """What can be computed on any batch, for forecasts: preferences need real pairs, and teachers their weights."""
        return ObjectiveConfig() if self.kind == "preference" or self.asks_teacher else self

    @model_validator(mode="after")
    def _kinds_have_their_settings(self) -> ObjectiveConfig:
        if self.kind == "distill" and self.distill.source == "teacher" and not self.distill.teacher:
            raise ValueError("kind distill needs a teacher; name a checkpoint with distill.teacher")
        if self.kind != "next_token" and (self.label_smoothing or self.z_loss):
            raise ValueError(f"label_smoothing and z_loss have no effect on kind {self.kind}; leave them out")
        if self.kind != "preference" and self.preference != PreferenceConfig():
            raise ValueError(f"preference has no effect on kind {self.kind}; set kind to preference")
        for key, given in (
            ("teacher", self.distill.teacher),
            ("source", self.distill.source == "store"),
            ("on_policy", self.distill.on_policy),
            ("teacher_memory_bytes", self.distill.teacher_memory_bytes),
        ):
            if self.kind != "distill" and given:
                raise ValueError(f"distill.{key} has no effect on kind {self.kind}; set kind to distill")
        return self
