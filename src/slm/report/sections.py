"""What a run's record says, part by part, in the order in which a reader asks: result, training, samples,
then the stages of the pipeline. Each function returns a section; one whose stage was not run says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slm.core.console import duration, quantity, size
from slm.model.counting import num_parameters, parameters_by_part
from slm.recipe import Stage
from slm.report.charts import NARROW, WIDE, by_layer, curve, loss_chart
from slm.report.gather import Run, command
from slm.report.page import Bar, Fact, Figure, Sample, Section, Table, compact, percent

BASELINES = {
    "xz_bits_per_byte": ("xz\u00a0-9", "all of the text as one stream"),
    "gzip_bits_per_byte": ("gzip\u00a0-9", "each document alone"),
    "unigram_bits_per_byte": ("unigram", "frequencies of single tokens"),
}


def result(run: Run) -> Section:
    """Bits per byte beside the baselines."""
    section = Section("result", "Result")
    validation, baselines = run.results.get("validation", {}), run.results.get("baselines", {})
    if not validation:
        section.missing = command(run.recipe, "evaluate")
        return section
    mark_stale(section, run, "evaluate")
    ours = float(validation["bits_per_byte"])
    low, high = validation["interval_95"]
    named = [("this model", f"95 % interval: {low:.3f} to {high:.3f}", ours)]
    named += [(*text, float(baselines[key])) for key, text in BASELINES.items() if baselines.get(key) is not None]
    longest = max(value for _, _, value in named)
    section.bars = [
        Bar(name, f"{value:.3f}", value / longest, what, strong=name == "this model")
        for name, what, value in sorted(named, key=lambda entry: entry[2])
    ]
    section.bars_caption = "Bits per byte of held-out text. Fewer is better; a byte stored as it is takes 8."
    beaten = [name for name, _, value in named[1:] if ours < value]
    section.lead = f"The model spends {ours:.3f} bits on a byte of text that it never saw, " + (
        f"fewer than {_listed(beaten)}." if beaten else "more than every baseline."
    )
    section.facts = [
        Fact("95 % interval", f"{low:.3f} to {high:.3f}", "over held-out documents"),
        Fact(
            "nats per token", f"{validation['nats_per_token']:.3f}", f"perplexity {quantity(validation['perplexity'])}"
        ),
        Fact("held-out text", size(validation["bytes"]), f"{validation['documents']:,} documents"),
        Fact("tokens scored", f"{validation['tokens']:,}"),
        Fact("window", f"{validation['context_tokens']:,} tokens", f"moved by {validation['stride_tokens']:,}"),
    ]
    groups = {**run.results["sources"], **run.results["domains"]}
    if len(groups) > 2:  # one source of one domain is the whole
        section.tables = [
            Table(
                "By source and domain",
                ("text", "documents", "UTF-8", "bits per byte [95 %]", "gzip\u00a0-9"),
                [
                    (name, f"{group['documents']:,}", size(group["bytes"]),
                     _with_interval(group), f"{group['gzip_bits_per_byte']:.3f}")
                    for name, group in groups.items()
                ],
            )
        ]  # fmt: skip
    return section


def training(run: Run) -> Section:
    """Curves and cost of the training."""
    section = Section("training", "Training")
    counts, recipe = run.artifacts["train"].counts, run.recipe
    if not run.steps:
        section.missing = f"{command(run.recipe, 'train')}: there is a checkpoint but no metrics.jsonl beside it"
        return section
    if not counts.get("finished", True):
        section.notices.append(f"The training has not ended: this is its state at step {counts['step']:,}.")
    seconds = sum(row["seconds"] for row in run.steps)
    rate = (run.steps[-1]["tokens"]) / seconds if seconds else 0.0
    optimizer, ramp = recipe.train.optimizer, recipe.train.batch_ramp
    first = f"{ramp.start_tokens:,} to " if ramp.start_tokens else ""
    section.lead = (
        f"{counts['step']:,} steps of {first}{recipe.train.batch_tokens:,} tokens with "
        f"{'Muon and AdamW' if optimizer.kind == 'muon' else 'AdamW'}, {recipe.train.schedule.kind} schedule."
    )
    section.figures = [
        Figure(
            "Loss in nats per token against tokens trained on; the faint line is each logged step, the strong one "
            "their running mean. The first 5 % of the tokens may leave the frame.",
            loss_chart(run.steps, run.evaluations, WIDE),
            loss_chart(run.steps, run.evaluations, NARROW),
            wide=True,
        ),
        Figure("Learning rate", curve("lr", "Learning rate against tokens", run.steps, "lr", floor=0)),
        Figure(
            "Gradient norm before clipping"
            + (f" at {recipe.train.clip_norm:g}" if recipe.train.clip_norm else " (never clipped)"),
            curve("norm", "Gradient norm against tokens", run.steps, "grad_norm", smooth=True, floor=0),
        ),
        Figure(
            "Tokens per second",
            curve("rate", "Tokens per second against tokens", run.steps, "tokens_per_second", smooth=True, floor=0),
        ),
    ]
    if run.noise:
        title = "Gradient noise scale in tokens, smoothed"
        section.figures.append(Figure(title, curve("noise", title, run.noise, "noise_scale_tokens", floor=0)))
    section.facts = [
        Fact("tokens trained on", compact(counts["tokens"]), _epochs(run)),
        Fact("time in steps", duration(seconds), "without evaluation and saving"),
        Fact("mean rate", f"{rate:,.0f} tokens/s"),
        Fact("arithmetic", str(counts.get("precision", "unknown")), f"{counts.get('threads', '?')} CPU threads"),
    ]
    return section


def layers(run: Run) -> Section:
    """Sizes by layer as the training went on."""
    section = Section("layers", "Layers")
    if not run.layers:
        section.missing = command(run.recipe, "train", "train.statistics_every_steps=STEPS")
        return section
    section.lead = (
        "Root mean squares against tokens trained on, a line a layer: the first is the faintest. Lines that part or "
        "climb show which layer is about to fail."
    )
    section.figures = [
        Figure(caption, by_layer(f"layers-{quantity}", caption, run.layers, quantity))
        for quantity, caption in (
            ("output_rms", "What a layer hands on"),
            ("output_max", "Its largest entry"),
            ("attention_rms", "What its attention adds"),
            ("ffn_rms", "What its feed-forward adds"),
            ("weight_rms", "Its weights"),
            ("grad_rms", "Their gradients, before clipping"),
            ("update_share", "Their update, as a share of the weights"),
        )
    ]
    return section


def model(run: Run) -> Section:
    """Shape and size."""
    config = run.recipe.model
    parts = {name: count for name, count in parameters_by_part(config).items() if count}
    largest, total = max(parts.values()), num_parameters(config)
    section = Section("model", "Model")
    section.lead = (
        f"A decoder of {config.layers} layers and width {config.width} that exports as "
        f"{'Qwen3' if config.qk_norm else 'Llama'}."
    )
    section.bars = [
        Bar(name, f"{count:,}  ({percent(count / total)})", count / largest)
        for name, count in sorted(parts.items(), key=lambda item: -item[1])
    ]
    section.bars_caption = f"Parameters by part, {total:,} in all."
    section.facts = [
        Fact("heads", f"{config.heads}", f"{config.kv_heads} for keys and values, {config.head_dim} wide"),
        Fact("SwiGLU", f"{config.ffn_width:,} wide"),
        Fact("vocabulary", f"{config.vocab_size:,}", "tied head" if config.tie_embeddings else "head of its own"),
        Fact("longest context", f"{config.max_seq_len:,} tokens", f"rotary base {config.rope_theta:,.0f}"),
    ]
    return section


def samples(run: Run) -> Section:
    """What the model wrote at several steps of its training."""
    section = Section("samples", "Samples")
    prompts = list(dict.fromkeys(row["prompt"] for row in run.samples))
    if not prompts:
        section.missing = command(run.recipe, "train", "train.sample_prompts=[PROMPT]")
        return section
    chosen = _spread(sorted({row["step"] for row in run.samples}), run.recipe.report.sample_steps)
    section.lead = "Continuations of the same prompts as the training went on. The prompt is set apart."
    section.samples = [
        [
            Sample(f"step {row['step']:,} · {compact(row['tokens'])} tokens", prompt, row["text"])
            for row in run.samples
            if row["prompt"] == prompt and row["step"] in chosen
        ]
        for prompt in prompts
    ]
    return section


def answers(run: Run) -> Section:
    """What the exported file answers."""
    section = Section("answers", "Answers")
    if not run.answers:
        section.missing = command(run.recipe, "serve")
        return section
    mark_stale(section, run, "serve")
    section.lead = f"{run.answers['model']}, answered by {run.answers['engine']}."
    written = [
        Sample(
            f"{answer['mode']} · {answer['generated_tokens']} tokens at {answer['tokens_per_second']:,.0f}/s",
            answer["prompt"],
            answer["text"],
        )
        for answer in run.answers["samples"]
    ]
    prompts = dict.fromkeys(sample.prompt for sample in written)
    section.samples = [[sample for sample in written if sample.prompt == prompt] for prompt in prompts]
    return section


def golden(run: Run) -> Section:
    """Prompts whose continuations are held to a range or a pattern."""
    section = Section("golden", "Golden prompts")
    table = run.results.get("golden", {})
    items: list[dict[str, Any]] = table.get("items", [])
    if not items:
        section.missing = command(run.recipe, "evaluate", "evaluate.golden=TABLE")
        return section
    section.lead = f"{table['passed']} of {table['passed'] + table['failed']} golden prompts passed."
    clean = table.get("clean")
    if clean:
        total = clean["passed"] + clean["failed"]
        section.lead += f" Of those that no document of the corpus held, {clean['passed']} of {total} passed."
    section.tables = [
        Table(
            "Every prompt with what was expected and found",
            ("name", "prompt", "outcome", "expected", "found"),
            [
                (
                    item["name"],
                    item["prompt"],
                    "passed" if item["passed"] else "FAILED",
                    item["expected"],
                    item["found"],
                )
                for item in items
            ],
        )
    ]
    return section


def _with_interval(group: Mapping[str, Any]) -> str:
    """Bits per byte of a group of documents; of one there is no interval."""
    bounds = group["interval_95"]
    return f"{group['bits_per_byte']:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")


def _epochs(run: Run) -> str:
    shards = run.artifacts.get("shards")
    if shards is None:
        return ""
    rows = shards.counts["train"]["rows"] * shards.counts["seq_len"]
    return f"{run.artifacts['train'].counts['tokens'] / rows:.2f} epochs"


def mark_stale(section: Section, run: Run, stage: Stage) -> None:
    """Say so where a stage was made from another artifact than the one of this run."""
    if stage in run.stale:
        section.notices.append(
            f"Out of date: this was made from another {run.stale[stage]} than the one of this run. "
            f"Run slm {stage} again with redo=true."
        )


def _spread(steps: Sequence[int], count: int) -> set[int]:
    """`count` of the steps, evenly spread, the last among them, and the first where there are at least two."""
    if len(steps) <= count:
        return set(steps)
    if count == 1:
        return {steps[-1]}
    return {steps[round(index * (len(steps) - 1) / (count - 1))] for index in range(count)}


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
