"""Whether the GPU's own paths give the numbers of the plain ones, and where the host waits for the GPU."""

import platform
import time
import traceback
import warnings
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from bench.gpu.place import Place
from bench.gpu.speed import median_seconds, wait
from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.config import from_mapping
from worker.dpo.model import flex_attention, loading, pointwise
from worker.dpo.model.agreement import choose_scorer
from worker.dpo.model.attention import shared_prefix_attention
from worker.dpo.model.scorer import PairScorer
from worker.dpo.rows.masks import Layout
from worker.dpo.rows.rows import shared_rows


def machine(place: Place) -> dict[str, Any]:
    """What the figures were measured on, and how fast its memory copies."""
    from importlib.metadata import PackageNotFoundError, version

    facts: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("transformers", "peft", "accelerate", "trl", "liger-kernel", "bitsandbytes", "triton", "datasets"):
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    if place.is_gpu:
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": properties.name,
            "gpu_gib": round(properties.total_memory / 2**30, 1),
            "free_gib": round(torch.cuda.mem_get_info()[0] / 2**30, 1),
            "cuda": torch.version.cuda,
        }
        source = torch.randn(1 << 30, device=place.device)
        target = torch.empty_like(source)
        seconds = median_seconds(place, lambda: target.copy_(source), repeats=10)
        facts["copy_gb_per_second"] = round(2 * source.nbytes / seconds / 1e9)
    return facts


def row(*lengths: tuple[int, int, int], system: int = 0) -> Layout:
    """The layout of a row of pairs with prompt, chosen and rejected of these lengths, after a beginning in common."""
    ids = iter(range(10**9))

    def fresh(length: int) -> tuple[int, ...]:
        return tuple(islice(ids, length))

    beginning = fresh(system)
    rows = shared_rows([TokenPair(1, beginning + fresh(p), fresh(c), fresh(r)) for p, c, r in lengths])
    layout = rows.padded(flex_attention.BLOCK).layout
    assert layout is not None
    return layout


def drawn(place: Place, layout: Layout, dtype: torch.dtype, *, heads: int = 12, kv: int = 2, dim: int = 128) -> list:
    tokens = layout.strands[-1].end
    shapes = ((1, heads, tokens, dim), (1, kv, tokens, dim), (1, kv, tokens, dim))
    return [torch.randn(shape, device=place.device, dtype=dtype).requires_grad_() for shape in shapes]


def dense(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None, softcap: float | None
) -> Tensor:
    """softmax(QKᵀ/√d + mask)·V with the whole row's mask, in float64, (1, tokens, heads, dim)."""
    tokens, groups = query.shape[2], query.shape[1] // key.shape[1]
    seen = torch.zeros(tokens, tokens, dtype=torch.bool)
    for strand in layout.strands:
        places = torch.tensor([place for span in strand.whole for place in range(*span)])
        depth = torch.arange(len(places))
        allowed = depth[None] <= depth[:, None]
        if window is not None:
            allowed &= depth[:, None] - depth[None] < window
        seen[places[strand.before :, None], places[None]] = allowed[strand.before :]
    wide = [tensor.double() for tensor in (query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1))]
    scores = wide[0] @ wide[1].transpose(2, 3) / query.shape[-1] ** 0.5
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return (scores.masked_fill(~seen.to(query.device), -torch.inf).softmax(-1) @ wide[2]).transpose(1, 2)


def apart(one: Tensor, other: Tensor) -> float:
    return ((one.double() - other.double()).norm() / other.double().norm().clamp_min(1e-30)).item()


Case = tuple[torch.dtype, int | None, float | None, list[tuple[int, int, int]]]


def attention_exact(place: Place) -> dict[str, Any]:
    """FlexAttention against the dense mask in float64: outputs and gradients, in rows of several lengths."""
    return attention_cases(
        place,
        [
            (torch.bfloat16, None, None, [(149, 40, 50), (300, 100, 20), (20, 130, 10)]),
            (torch.bfloat16, None, None, [(700, 140, 350), (30, 10, 20)]),
            (torch.bfloat16, None, None, [(49, 40, 50)]),
        ],
    )


def attention_variants(place: Place) -> dict[str, Any]:
    """The same in float32, with a sliding window, and with softcapping."""
    return attention_cases(
        place,
        [
            (torch.float32, None, None, [(149, 40, 50), (300, 100, 20), (20, 130, 10)]),
            (torch.bfloat16, 100, None, [(300, 100, 20), (200, 130, 10)]),
            (torch.bfloat16, None, 30.0, [(300, 100, 20), (200, 130, 10)]),
        ],
    )


def attention_cases(place: Place, cases: list[Case]) -> dict[str, Any]:
    """Errors of outputs and gradients relative to their norm, by type, row, window and softcap."""
    limits = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
    figures: dict[str, Any] = {}
    compiled: dict[str, float] = {}
    good = True
    for dtype, window, softcap, lengths in cases:
        layout = row(*lengths, system=30)
        inputs = drawn(place, layout, dtype)
        name = f"{str(dtype)[6:]} {layout.strands[-1].end}" + (f" window {window}" if window else "")
        name += f" softcap {softcap:g}" if softcap else ""
        started = time.time()
        try:
            output = shared_prefix_attention(
                torch.nn.Identity(), *inputs, None, None, window, softcap, prefix_layout=layout
            )[0]
            upstream = torch.randn_like(output)
            gradients = torch.autograd.grad(output, inputs, upstream)
            wait(place)
        except Exception as problem:
            figures[name], good = f"{type(problem).__name__}: {problem}"[-400:], False
            continue
        compiled[name] = round(time.time() - started, 1)
        expected = dense(*inputs, layout, window, softcap)
        wanted = torch.autograd.grad(expected, inputs, upstream.double())
        errors = [apart(*each) for each in zip((output, *gradients), (expected, *wanted), strict=True)]
        figures[name] = [float(f"{error:.1e}") for error in errors]
        good &= max(errors) < limits[dtype]
        # The same once more must be the same to the last bit: a resumed run depends on it.
        again = shared_prefix_attention(
            torch.nn.Identity(), *inputs, None, None, window, softcap, prefix_layout=layout
        )[0]
        repeated = torch.autograd.grad(again, inputs, upstream)
        same = all(torch.equal(*each) for each in zip((output, *gradients), (again, *repeated), strict=True))
        if not same:
            figures[name].append("not repeatable")
            good = False
    used = flex_attention.serves(inputs[0])
    return {"ok_if": good and (used or not place.is_gpu), "flex": used, "errors": figures, "first_seconds": compiled}


def attention_speed(place: Place) -> dict[str, Any]:
    """Forward and backward of one layer's attention at the 1.5B shape, by path."""
    sizes = {"hh": [(149, 40, 50)] * (2 if place.tiny else 68), "long": [(2000, 150, 150)] * (1 if place.tiny else 7)}
    if place.tiny:
        sizes["long"] = [(300, 20, 20)]
    figures: dict[str, Any] = {}
    for name, lengths in sizes.items():
        layout = row(*lengths)
        inputs = drawn(place, layout, torch.bfloat16)

        def both(inputs: list = inputs, layout: Layout = layout) -> None:
            output = shared_prefix_attention(torch.nn.Identity(), *inputs, None, None, prefix_layout=layout)[0]
            torch.autograd.grad(output, inputs, output)

        def forward(inputs: list = inputs, layout: Layout = layout) -> None:
            with torch.no_grad():
                shared_prefix_attention(torch.nn.Identity(), *inputs, None, None, prefix_layout=layout)

        for path in ("flex", "strands"):
            flex_attention.refuse("" if path == "flex" else "to be compared")
            try:
                whole = median_seconds(place, both, repeats=3 if path == "strands" else 10)
                figures[f"{name} {path}"] = {
                    "tokens": layout.strands[-1].end,
                    "ms": round(1e3 * whole, 3),
                    "forward_ms": round(1e3 * median_seconds(place, forward, repeats=5), 3),
                }
            except Exception as problem:
                figures[f"{name} {path}"] = f"{type(problem).__name__}: {problem}"[-300:]
            finally:
                flex_attention.refuse("")
        begun = time.perf_counter()
        fresh = row(*lengths)
        flex_attention.block_mask(fresh, None, torch.device(place.device))
        figures[f"{name} row and mask, ms on the host"] = round(1e3 * (time.perf_counter() - begun), 2)
    return figures


def pointwise_exact(place: Place) -> dict[str, Any]:
    """Each compiled function against itself, not compiled, in float32; the worst error relative to the norm, and seconds to compile."""
    tokens, width, columns = (70, 64, 100) if place.tiny else (4099, 1536, 12000)
    generator = torch.Generator(place.device).manual_seed(0)

    def random(*shape: int, wide: bool = False) -> Tensor:
        return torch.randn(shape, device=place.device, generator=generator).to(
            torch.float32 if wide else torch.bfloat16
        )

    x, g, weight = random(tokens, width), random(tokens, width), random(width)
    inverse = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)
    raw = 3 * random(tokens // 3, columns)
    place_ = torch.randint(-columns, 2 * columns, (tokens // 3,), device=place.device, generator=generator)
    top, total = raw.float().amax(1, keepdim=True) - 1, random(tokens // 3, 1, wide=True).exp()
    picked, upstream = random(tokens // 3, 1, wide=True), random(tokens // 3, wide=True)
    calls: dict[str, tuple] = {
        "norm": (x, weight, 1e-6, 0.0),
        "norm_input_gradient": (g, x, weight, inverse, 0.0),
        "norm_weight_gradient": (g, x, inverse),
        "gated": (x, g),
        "gated_gradients": (random(tokens, width), x, g),
        "block_statistics": (raw, place_, picked, top, total, 1.0, None),
        "block_powers": (raw, place_, picked, top, total, 1.0, None),
        "block_gradient": (raw, place_, top + 1, total.log() + 5, upstream, 1.0, None),
    }
    figures, worst = {}, 0.0
    for name, given in calls.items():
        function = getattr(pointwise, name)
        wide = [value.float() if isinstance(value, Tensor) and value.is_floating_point() else value for value in given]
        started = time.time()
        outputs = function(*given)
        wait(place)
        seconds = time.time() - started
        wanted = function.__wrapped__(*wide)
        if isinstance(outputs, Tensor):
            outputs, wanted = (outputs,), (wanted,)
        error = max(apart(*each) for each in zip(outputs, wanted, strict=True))
        ms = 1e3 * median_seconds(place, lambda function=function, given=given: function(*given), repeats=5)
        figures[name] = {"error": float(f"{error:.1e}"), "first_seconds": round(seconds, 1), "ms": round(ms, 3)}
        worst = max(worst, error)
    return {"ok_if": worst < 1e-2, **figures}


def compiled_bfloat16(place: Place) -> dict[str, Any]:
    """Compiled layers under LoRA."""
    if not place.is_gpu:
        return {"skipped": "PyTorch compiles no gradients of FlexAttention for CPUs"}
    return agreement(place, "bfloat16", ranks=(16,), compiled=True)


def shared_bfloat16(place: Place) -> dict[str, Any]:
    return agreement(place, "bfloat16")


def shared_float32(place: Place) -> dict[str, Any]:
    return agreement(place, "float32")


def agreement(place: Place, dtype: str, *, ranks: tuple[int, ...] = (16, 0), compiled: bool = False) -> dict[str, Any]:
    """HH pairs of the 135M shape in shared rows and, one at a time, in plain ones with the model's own layers and head."""
    figures: dict[str, Any] = {}
    good = True
    for lora_r in ranks:
        torch.manual_seed(1)
        config = from_mapping({"dtype": dtype, "lora_r": lora_r, "device": place.device})
        policy = loading.prepare_policy(
            loading.load_base(str(place.model("SmolLM2-135M")), dtype=dtype, device=place.device), config
        )
        with torch.no_grad():
            for name, weight in policy.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.02)
        pairs = place.pairs("hh", 16)
        said: list[str] = []
        scorer = choose_scorer(policy, pairs, config, compile_layers=compiled, log=said.append)
        fast = scored(scorer, [pairs])
        if compiled and not scorer.compiled_layers:
            # What the engine cut short.
            scorer.use_layers("compiled")
            scored(scorer, [pairs])
        scorer.use_layers("")
        plain = scored(PairScorer(policy, shared=False, own_head=False), [[pair] for pair in pairs])
        limit = {"float32": 2e-3, "bfloat16": 5e-2}[dtype]
        errors = {"logps": apart(fast[0], plain[0]), "gradients": apart(fast[1], plain[1])}
        good &= scorer.shared and ("compiled" if compiled else "fused") in said[0] and max(errors.values()) < limit
        figures["lora" if lora_r else "full"] = {name: float(f"{error:.1e}") for name, error in errors.items()} | {
            "said": said
        }
        del policy, scorer, fast, plain
        place.tidy()
    return {"ok_if": good, **figures}


def scored(scorer: PairScorer, parts: list[list[TokenPair]]) -> tuple[Tensor, Tensor]:
    """(log-probabilities, one line of all gradients) of pairs, so many at a time."""
    scorer.zero_grad()
    logps = []
    for part in parts:
        values = scorer(scorer.rows(part))
        (values[0] - 0.5 * values[1]).sum().backward()
        logps.append(values.detach())
    gradients = [weight.grad.float().flatten() for weight in scorer.parameters() if weight.grad is not None]
    scorer.zero_grad()
    return torch.cat(logps, 1), torch.cat(gradients)


def profile(place: Place) -> dict[str, Any]:
    """What the GPU does in steps 5 to 8 of the 1.5B shape, by kernel, and the host in steps 10 to 13: milliseconds a step.

    Python's profiler slows the host down; its figures are shares of that.
    """
    import cProfile
    import pstats

    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    from bench.gpu.speed import engine_run
    from worker.dpo.run import loop

    real, done, marks = loop.optimizer_step, [0], []
    activities = [ProfilerActivity.CUDA] if place.is_gpu else [ProfilerActivity.CPU]
    watching, host = watch(activities=activities), cProfile.Profile()

    def watched(run: Any) -> dict[str, float]:
        done[0] += 1
        if done[0] in (5, 9):
            wait(place)
            marks.append(time.perf_counter())
            watching.start() if done[0] == 5 else watching.stop()
        if not 10 <= done[0] < 14:
            return real(run)
        host.enable()
        try:
            return real(run)
        finally:
            host.disable()

    loop.optimizer_step = watched
    try:
        engine_run(place, "Qwen2.5-1.5B", place.data("hh", 240), place.folder / "profiled")
    finally:
        loop.optimizer_step = real
    rows = [(event.key, event.device_time_total, event.count) for event in watching.key_averages()]
    rows = sorted(((name, micro / 4e3, count / 4) for name, micro, count in rows if micro), key=lambda row: -row[1])
    busy, launches = sum(row[1] for row in rows), sum(row[2] for row in rows)
    wall = 1e3 * (marks[1] - marks[0]) / 4 if len(marks) == 2 else 0.0
    spent = sorted(pstats.Stats(host).stats.items(), key=lambda entry: -entry[1][2])  # type: ignore[attr-defined]
    return {
        "step_ms": round(wall, 1),
        "gpu_ms": round(busy, 1),
        "kernels": round(launches),
        "by_kernel": {name[:70]: [round(ms, 2), round(count)] for name, ms, count in rows[:32]},
        "by_function": {
            f"{file.rsplit('/', 1)[-1]}:{line} {name[:50]}": [
                round(own * 250, 2),
                round(calls / 4),
                round(all_in * 250, 2),
            ]
            for (file, line, name), (_, calls, own, all_in, _) in spent[:45]
        },
    }


def waits(place: Place) -> dict[str, Any]:
    """Where the host waits for the GPU within two steps, by the engine's own lines, and what a step costs on the host."""
    from collections import Counter

    from bench.gpu.speed import engine_run

    where: Counter[str] = Counter()

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "synchroniz" not in str(message).lower():
            return
        frames = [frame for frame in traceback.extract_stack()[:-1] if "/worker/dpo/" in frame.filename]
        last = traceback.extract_stack()[-2]
        mine = f"{frames[-1].filename.rsplit('/worker/', 1)[1]}:{frames[-1].lineno}" if frames else "elsewhere"
        where[f"{mine} ({last.filename.rsplit('/', 1)[1]}:{last.lineno})"] += 1

    if place.is_gpu:
        torch.cuda.set_sync_debug_mode("warn")
    shown = warnings.showwarning
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note
            data = place.data("hh", 48)
            engine_run(place, "SmolLM2-135M", data, place.folder / f"waits-{time.time()}", compile="off")
    finally:
        warnings.showwarning = shown
        if place.is_gpu:
            torch.cuda.set_sync_debug_mode("default")
    return {"steps": 3, "where": dict(where.most_common(25))}
