"""What the command line says of bad input: the cause and the cure, without a trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mnemosyne_metatrain.cli import main

CONFIGS = Path(__file__).parent.parent / "configs"
TINY = str(CONFIGS / "tiny.toml")
NEXT = f'extends = "{TINY}"\n'


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs the program; returns what it says when it ends with 1."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("foo = 1", "RunConfig has no foo; it has"),
        ("[recipe]\nlerning_rate = 1", "learning_rate"),
        ('estimator = "exact"', "unknown estimator: 'exact'; there are first_order, truncated"),
        ('[optimizer]\nkind = "mnemosine"', "unknown optimizer: 'mnemosine'; there are mnemosyne"),
        ("tasks =", "Invalid value"),
    ],
)
def test_a_wrong_configuration_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(NEXT + text + "\n")
    assert said in refuse(capsys, "train", str(path), "--out", str(tmp_path / "run"))


def test_what_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    absent = str(tmp_path / "absent")
    assert absent in refuse(capsys, "train", absent, *out)
    said = refuse(capsys, "evaluate", f"{TINY}:{absent}", "--tasks", "poisson", *out)
    assert "checkpoint.npz: train first, or wait for it with --wait" in said
    said = refuse(capsys, "evaluate", f"{absent}.safetensors", "--tasks", "poisson", *out)
    assert f"there are no weights {absent}.safetensors" in said
    said = refuse(capsys, "evaluate", f"{TINY}:", "--tasks", "posson", *out)
    assert "no such tasks: posson; there are validation" in said and "poisson" in said
    assert "there are no records" in refuse(capsys, "report", absent, *out)
    said = refuse(capsys, "restore", TINY, *out, "--baselines", absent)
    assert f"{TINY} is no results.json" in said


def test_a_variant_is_asked_for_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    several = str(CONFIGS / "windows.toml")
    assert "--variant is one of base" in refuse(capsys, "export", TINY, "--variant", "wide", *out)
    assert "has several variants: --variant is one of on" in refuse(capsys, "export", several, *out)
    assert "need --run" in refuse(capsys, "export", TINY, "--taught", *out)


def test_exported_weights_can_be_read_by_a_daemon(tmp_path: Path) -> None:
    main(["export", TINY, "--out", str(tmp_path / "mnemosyne" / "0.0.1")])
    path = tmp_path / "mnemosyne" / "0.0.1" / "weights.safetensors"
    assert os.stat(path).st_mode & 0o777 == 0o644


def test_the_trace_is_there_for_who_mends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNEMOSYNE_DEBUG", "1")
    with pytest.raises(OSError, match="absent"):
        main(["train", str(tmp_path / "absent"), "--out", str(tmp_path)])
