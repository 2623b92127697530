"""Mean and standard deviation of log-mel that published recipes state for their corpora (papers.md 1.2).

They hold for the padding that they were computed with, which is why a corpus has several: those of `paper` and
`elastic_ast` count zeros after the clip. Own statistics are the default.
"""

from audiolib.errors import AudiolibError

STATED: dict[str, dict[str, tuple[float, float]]] = {
    # AST, FlexiAST and Audio Mamba; for EPIC-Sounds 400 frames.
    "paper": {
        "audioset": (-4.2677393, 4.5689974),
        "vggsound": (-5.0767093, 4.4533687),
        "voxceleb1": (-3.7614744, 4.2011642),
        "speech_commands": (-6.845978, 5.5654526),
        "esc50": (-6.6268077, 5.358466),
        "epic_sounds": (-8.660809, 3.878928),
    },
    # ElasticAST on clips of their own length; for VoxCeleb1 those it calls "mid".
    "elastic": {
        "audioset": (-4.414, 4.905),
        "vggsound": (-5.08, 4.453),
        "voxceleb1": (-5.842545, 3.88305),
        "epic_sounds": (-8.660809, 3.878928),
    },
    # The fixed-length models that ElasticAST is compared with; for EPIC-Sounds 1024 frames.
    "elastic_ast": {
        "audioset": (-4.4050345, 4.9021754),
        "vggsound": (-5.08, 4.453),
        "voxceleb1": (-4.553, 4.1933),
        "epic_sounds": (-8.820385, 3.7790387),
    },
    # ElasticAST, clips weighted by their length.
    "elastic_weighted": {"voxceleb1": (-6.6935, 3.11822)},
    # FlexiAST's measurement of flexibility in time.
    "flexi_time": {"vggsound": (-4.2821145, 4.521023)},
}


def stated_constants(corpus: str, name: str) -> tuple[float, float]:
    """Mean and standard deviation for a corpus, of the recipes called `name`.

    Raises:
        AudiolibError: they state none for this corpus.
    """
    of_name = STATED[name]
    if corpus not in of_name:
        raise AudiolibError(f"features.normalisation: {name} knows {', '.join(of_name)}, not {corpus}; set it to own")
    return of_name[corpus]
