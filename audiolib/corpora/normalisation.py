"""Mean and standard deviation of log-mel that the papers state for their corpora (papers.md 1.2).

They hold for the papers' padding with zeros before normalisation; own statistics are the default.
"""

from audiolib.errors import AudiolibError

PAPER = {
    "audioset": (-4.2677393, 4.5689974),
    "vggsound": (-5.0767093, 4.4533687),
    "voxceleb1": (-3.7614744, 4.2011642),
    "speech_commands": (-6.845978, 5.5654526),
    "esc50": (-6.6268077, 5.358466),
    "epic_sounds": (-8.660809, 3.878928),
}


def paper_constants(corpus: str) -> tuple[float, float]:
    """Mean and standard deviation.

    Raises:
        AudiolibError: no paper states them for this corpus.
    """
    if corpus not in PAPER:
        raise AudiolibError(f"features.normalisation: paper knows {', '.join(PAPER)}, not {corpus}; set it to own")
    return PAPER[corpus]
