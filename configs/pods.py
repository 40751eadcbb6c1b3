"""What docs/pods.md proves: every stage at its released size, serving, and the ladder of LM sizes.

cosyjax compile --matrix configs/pods.py --docs docs/pods.md
"""

from cosyjax.aot.matrix import Entry

TOPOLOGIES = (
    ("v5e-1", 1),
    ("v5e-8", 1),
    ("v5e-256", 1),
    ("v5p-128", 1),
    ("v6e-256", 1),
    ("v5p-4096", 1),
    ("v5e-256", 2),
)
# Chips for about 16,384 tokens each at the batch of the size.
LADDER = {
    "10M": "v5e-1",
    "30M": "v5e-4",
    "0.1B": "v5e-8",
    "0.3B": "v5e-16",
    "0.5B": "v5e-32",
    "1.5B": "v5e-64",
    "3B": "v5p-64",
    "7B": "v5p-128",
}
STAGES = {
    "lm": "configs/lm.py:size=cosyvoice2,chips={chips},slices={slices}",
    "flow": "configs/flow.py:size=cosyvoice2,chips={chips}",
    "vocoder": "configs/vocoder.py:size=cosyvoice2,chips={chips}",
    "tokenizer": "configs/tokenizer.py:size=base,chips={chips}",
}
SERVED = ("prefill", "decode", "stream")
QUICK = ("flow", "vocoder", "tokenizer", "stream")  # convolutions: minutes each, or hours


def get_matrix() -> list[Entry]:
    """Everything that is compiled."""
    entries = []
    for topology, slices in TOPOLOGIES:
        chips = slices * int(topology.split("-")[1])
        for stage, config in STAGES.items():
            config = config.format(chips=chips, slices=slices)
            quick = stage in QUICK
            entries.append(Entry(f"train {stage}", config, "train", topology, slices, quick))
        for program in SERVED:
            entries.append(
                Entry(
                    f"serve {program}",
                    "configs/cosyvoice2.py",
                    program,
                    topology,
                    slices,
                    program in QUICK,
                )
            )
    for size, topology in LADDER.items():
        config = f"configs/lm.py:size={size},chips={topology.split('-')[1]}"
        entries.append(Entry(f"ladder {size}", config, "train", topology))
    return entries
