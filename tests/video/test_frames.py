import numpy as np
import pytest

from videoreasoner.video.frames import Frames


def test_frames_are_iterated_with_their_times() -> None:
    pixels = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    frames = Frames(pixels, np.array([0.5, 1.5]))
    assert len(frames) == 2
    for number, (time_s, image) in enumerate(frames):
        assert type(time_s) is float
        assert time_s == number + 0.5
        assert np.array_equal(image, pixels[number])


@pytest.mark.parametrize(
    ("shape", "dtype", "times"),
    [((2, 4, 6), np.uint8, 2), ((2, 4, 6, 4), np.uint8, 2), ((2, 4, 6, 3), np.float32, 2), ((2, 4, 6, 3), np.uint8, 3)],
)
def test_pixels_and_times_that_do_not_fit_are_refused(shape: tuple[int, ...], dtype: type, times: int) -> None:
    with pytest.raises(ValueError, match=r"must be uint8|as many times"):
        Frames(np.zeros(shape, dtype), np.zeros(times))
