"""RESULTS.md from what was measured."""

from pathlib import Path

PATH = Path(__file__).resolve().parent / "RESULTS.md"

SPEED = [
    "| work | peer | Kinglet | peer's | speed (10 % to 90 %) | goal | met | rounds | measured | |",
    "|---|---|--:|--:|--:|--:|---|--:|---|---|",
]


def report(rows, results, engines):
    """`rows` in the table's order, with what `results` has of them."""
    found = [(row, *results.get(row.name)) for row in rows if results.get(row.name)]
    missing = [row.name for row in rows if not results.get(row.name)]
    setting = results.setting
    versions = ", ".join(f"{engine.title} {engine.version}" for engine in engines)
    text = [
        "# Measured against other engines",
        "",
        "Written by `cargo xtask bench peers`; bench/rows.py holds the rows, and the files that it names "
        "say how each is measured. Engines take turns on the same file, each round gives one ratio, and "
        "the middle one stands here. Speed is the other engine's time divided by Kinglet's: above 1, "
        "Kinglet is faster.",
        "",
        f"Machine: {setting['cpu']}, {setting['cpus']} CPUs; {setting['threads']} threads for every "
        "engine where a row does not say otherwise.",
        f"{versions} (llama.cpp is llama-cpp-python's, built on the machine; OpenVINO is held to f32).",
        "",
    ]
    for title, section, table in SECTIONS:
        chosen = [row for row in found if row[0].section == section]
        if chosen:
            text += [f"## {title}", "", *table(chosen), ""]
    if missing:
        text += ["Not measured yet: " + "; ".join(missing) + ".", ""]
    return "\n".join(text)


def speeds(rows):
    yield from SPEED
    for row, day, lines in rows:
        for line in lines:
            if line.reason:
                nothing = "– | " * 6
                yield f"| {row.name} | {line.peer} | {nothing}{day} | {line.reason} |"
                continue
            yield (
                f"| {row.name} | {line.peer} | {figure(line.ours)} {line.unit} | {figure(line.theirs)} "
                f"| {line.speed:.2f} ({line.low:.2f} to {line.high:.2f}) | {goal(line)} "
                f"| {verdict(line)} | {line.rounds} | {day} | {line.remark} |"
            )


def language(rows):
    yield from speeds(rows)
    traffic = [(row, line) for row, _, lines in rows for line in lines if line.traffic]
    if not traffic:
        return
    yield ""
    yield (
        "Decoding reads each weight once for each token. What that is of the speed at which the same "
        "threads can read memory, measured in the same rounds:"
    )
    yield ""
    yield "| work | MB for each token | memory GB/s | Kinglet | peer | the peer's | goal | met |"
    yield "|---|--:|--:|--:|---|--:|--:|---|"
    for row, line in traffic:
        t = line.traffic
        wanted = f"{t['goal']:.0%}" if t["goal"] else "–"
        met = "–" if not t["goal"] else "yes" if t["share"] >= t["goal"] else "no"
        yield (
            f"| {row.name} | {t['bytes'] / 1e6:.0f} | {t['bandwidth'] / 1e9:.1f} | {t['share']:.0%} "
            f"| {line.peer} | {t['peer_share']:.0%} | {wanted} | {met} |"
        )


def beside(rows):
    yield (
        "Another process spins on one of the cores. What is left of the speed that each engine has "
        "alone; where two threads share two cores fairly with it, 75 % are:"
    )
    yield ""
    yield "| work | Kinglet keeps | peer | keeps | goal | met | speed then | rounds | measured |"
    yield "|---|--:|---|--:|--:|---|--:|--:|---|"
    for row, day, lines in rows:
        for line in lines:
            if line.reason:
                yield f"| {row.name} | – | {line.peer} | – | – | – | – | – | {line.reason} |"
                continue
            ours, theirs = (
                f"{s['middle']:.0%} ({s['low']:.0%} to {s['high']:.0%})" for s in line.shares
            )
            yield (
                f"| {row.name} | {ours} | {line.peer} | {theirs} | {line.goal:.0%} | {verdict(line)} "
                f"| {line.speed:.2f} ({line.low:.2f} to {line.high:.2f}) | {line.rounds} | {day} |"
            )


def instructions(rows):
    yield (
        "Instructions that QEMU counts on aarch64 processors, on one thread, for each token, loading and "
        "warming up left out; llama.cpp is cross-built for the same processor. The ratio is the other "
        "engine's by Kinglet's: above 1, Kinglet executes fewer. cortex-a53 has no 8-bit dot products, "
        "cortex-a76 has them, max has 8-bit matrix products too. (max has SVE as well, with vectors of "
        "512 bits, which no phone has; llama.cpp is built without it, and Kinglet does not use it.)"
    )
    yield ""
    yield "| work | Kinglet | peer | peer's | ratio | goal | met | measured |"
    yield "|---|--:|---|--:|--:|--:|---|---|"
    for row, day, lines in rows:
        for line in lines:
            if line.reason:
                yield f"| {row.name} | – | {line.peer} | – | – | – | – | {day}: {line.reason} |"
                continue
            yield (
                f"| {row.name} | {figure(line.ours)} {line.unit} | {line.peer} | {figure(line.theirs)} "
                f"| {line.speed:.2f} | {goal(line)} | {verdict(line)} | {day} |"
            )


def precision(rows):
    yield (
        "Perplexity of the encoded file, and how far its predictions are from llama.cpp's of the model "
        "before encoding (KL divergence in nats). Not worse: not above the peer's by more than two "
        "standard errors of their difference, chunk by chunk of the text."
    )
    yield ""
    yield "| file | perplexity | peer | its | KL | the peer's | positions | not worse | measured |"
    yield "|---|--:|---|--:|--:|--:|--:|---|---|"
    for row, day, lines in rows:
        for line in lines:
            if line.reason:
                yield f"| {row.model} {row.encoding} | – | – | – | – | – | – | – | {line.reason} |"
                continue
            (a, b), (c, d) = line.precision["perplexity"], line.precision["divergence"]
            yield (
                f"| {row.model} {row.encoding} | {a:.6g} | {line.peer} | {b:.6g} | {c:.4g} | {d:.4g} "
                f"| {line.rounds} | {verdict(line)} | {day} |"
            )


def memory(rows):
    yield "Planned memory against the lower bound, the largest sum of live tensors, in bytes:"
    yield ""
    yield "| model | planned | lower bound | ratio | goal | met |"
    yield "|---|--:|--:|--:|--:|---|"
    for _, _, lines in rows:
        for line in lines:
            if line.reason:
                yield f"| – | – | – | – | – | {line.reason} |"
                continue
            yield (
                f"| {line.peer} | {line.ours:.0f} | {line.theirs:.0f} | {line.ours / line.theirs:.3f} "
                f"| ≤ {line.goal:g} | {verdict(line)} |"
            )


SECTIONS = [
    ("Nets", "nets", speeds),
    ("Language models", "language", language),
    ("Training", "training", speeds),
    ("Beside another process", "beside", beside),
    ("Instructions", "instructions", instructions),
    ("Precision", "precision", precision),
    ("Memory for activations", "memory", memory),
]


def figure(value):
    """Three digits that count, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def goal(line):
    if line.goal is None:
        return "–"
    return f"≥ {line.goal:g}" + (f", {line.goal_text}" if line.goal_text else "")


def verdict(line):
    if line.goal is None and not line.precision:
        return "–"
    return "yes" if line.met else "no"
