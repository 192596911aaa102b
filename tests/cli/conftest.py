from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.calling import Loading, Result, Run, answers_as
from videoreasoner.cli.main import main
from videoreasoner.inference.candidate import LocalCandidate
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.synthetic.videos import VideoSettings, video_world, write_video


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Result(caught.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "video.mp4"
    made = VideoSettings(duration_s=12.0, size=32, fps=20)
    write_video(path, video_world(made, 0), made)
    return path


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Loading:
    made = Loading()
    monkeypatch.setattr(Reasoner, "from_pretrained", made)
    monkeypatch.setattr(LocalCandidate, "answers_as", answers_as)
    return made
