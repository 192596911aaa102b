"""Which frames build on damaged data."""

from __future__ import annotations

from videoreasoner.video.pyav.damage import Damage


def _shown(damage: Damage, stamps: range, damaged: set[int] = frozenset(), keys: set[int] = frozenset()) -> Damage:  # type: ignore[assignment]
    for stamp in stamps:
        damage.show(stamp, is_whole=stamp not in damaged, is_key=stamp in keys)
    return damage


def test_damage_hurts_the_frames_up_to_the_next_whole_key_picture() -> None:
    damage = _shown(Damage(range(50)), range(50), damaged={33}, keys={0, 10, 20, 30, 40})
    assert [stamp for stamp in range(50) if damage.hurts(stamp, stamp)] == list(range(33, 40))
    # A frame at 32 that depends on the one shown at 33.
    assert damage.hurts(32, 33)
    assert damage.has_lead
    assert damage.begins_well


def test_a_damaged_key_picture_ends_nothing() -> None:
    damage = _shown(Damage(range(30)), range(30), damaged={5, 10}, keys={0, 10, 20})
    assert [stamp for stamp in range(30) if damage.hurts(stamp, stamp)] == list(range(5, 20))
    assert not damage.has_lead


def test_frames_that_do_not_come_out_are_damage() -> None:
    damage = Damage(range(10))
    for stamp in (0, 1, 2, 6, 7):
        damage.show(stamp, is_whole=True, is_key=stamp == 0)
    assert [damage.hurts(stamp, stamp) for stamp in (2, 6, 7)] == [False, True, True]
    late = Damage(range(10))
    late.show(1, is_whole=True, is_key=True)
    assert not late.begins_well


def test_data_that_fails_hurts_its_frame_or_the_next_one() -> None:
    damage = _shown(Damage(range(10)), range(3), keys={0})
    damage.fail(None)
    assert [damage.hurts(stamp, stamp) for stamp in (2, 3, 4)] == [False, True, True]
    damage = _shown(Damage(range(10)), range(3), keys={0})
    damage.fail(5)
    assert [damage.hurts(stamp, stamp) for stamp in (4, 5)] == [False, True]


def test_a_sound_video_is_not_hurt_and_needs_no_lead() -> None:
    damage = _shown(Damage(range(10)), range(10), keys={0})
    assert not any(damage.hurts(stamp, 10) for stamp in range(10))
    assert damage.begins_well
    assert damage.has_lead
