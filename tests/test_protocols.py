"""Evaluation settings by name: they replace a checkpoint's own, and results say what differs from them."""

from typing import get_args

import pytest

from videoreasoner.errors import SettingError
from videoreasoner.protocols import PROTOCOLS, protocol_settings
from videoreasoner.settings import Settings

OWN = Settings(frame_budget=80, min_pixels=3136, max_pixels=47040, max_key_elements=3, encoder="siglip")


def test_every_protocol_is_known_by_name_and_names_settings():
    assert set(get_args(Settings.model_fields["protocol"].annotation)) == set(PROTOCOLS)
    for settings in PROTOCOLS.values():
        assert settings.keys() <= Settings.model_fields.keys() - {"protocol", "prompts", "training", "encoder"}


def test_native_leaves_the_settings_of_the_checkpoint():
    assert OWN.changed(protocol="native") == OWN
    assert "protocol_changes" not in OWN.for_inference()


def test_the_paper_protocol_is_that_of_the_published_scripts():
    settings = OWN.changed(protocol="paper")
    assert (settings.frame_budget, settings.sparse_rate_fps) == (64, 2.0)
    assert (settings.min_pixels, settings.max_pixels) == (128 * 28 * 28, 256 * 28 * 28)
    assert (settings.retrieval_segment_frames, settings.retrieval_rate_fps) == (32, 1.0)
    assert (settings.retrieval_max_frames, settings.max_key_elements) == (768, 8)
    # What the protocol does not name stays.
    assert settings.encoder == "siglip"
    assert settings.for_inference()["protocol"] == "paper"
    assert settings.for_inference()["protocol_changes"] == {}


@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_given_beside_a_protocol_wins_and_is_named(at_once):
    given = {"frame_budget": 16, "max_pixels": 256 * 28 * 28}
    settings = OWN.changed(protocol="paper", **given) if at_once else OWN.changed(protocol="paper").changed(**given)
    assert settings.frame_budget == 16
    assert settings.for_inference()["protocol_changes"] == {"frame_budget": 64}


def test_a_checkpoint_does_not_keep_the_name(tmp_path):
    OWN.changed(protocol="paper").save(tmp_path)
    loaded = Settings.load(tmp_path)
    assert (loaded.protocol, loaded.retrieval_segment_frames) == ("native", 32)


def test_an_unknown_protocol_is_refused():
    for refused in (protocol_settings, lambda name: OWN.changed(protocol=name)):
        with pytest.raises(SettingError, match="no protocol 'papper'; use one of native, paper"):
            refused("papper")
