"""Run folders: checkpoints, records and the exported generator, also when damaged."""

import json
import os
from functools import cache

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gan_vkd.game.settings import load_settings
from gan_vkd.networks.biggan import Generator
from gan_vkd.run import Run
from gan_vkd.runtime import precision
from gan_vkd.runtime.checkpoint import digest
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.errors import VkdError


@pytest.fixture
def run(tmp_path):
    (tmp_path / "given.yaml").write_text(
        "arm: none\ndata: {source: digits}\nmodel: {ch: 2, z_dim: 8}\n"
    )
    run = Run(tmp_path / "run")
    run.write_settings(load_settings(tmp_path / "given.yaml").dump())
    return run


def one_line(caught) -> str:
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


def cut(file, share: float = 0.5) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])


# checkpoints


def test_settings_are_read_back(run, tmp_path):
    assert run.settings() == load_settings(tmp_path / "given.yaml")


def test_the_last_checkpoints_are_kept(run):
    for iteration in (1, 5, 20, 300, 100_000):
        run.save(iteration, {"iteration": iteration})
        assert run.latest_state() == {"iteration": iteration}
    assert [int(file.stem) for file in run.checkpoints()] == [300, 100_000]


def test_the_requested_number_of_checkpoints_is_kept_beside_the_best(run):
    for iteration in range(1, 8):
        run.save(iteration, {"iteration": iteration}, keep=3, best=2 if iteration < 6 else 6)
    assert [int(file.stem) for file in run.checkpoints()] == [4, 5, 6, 7]


def test_a_new_run_has_no_state(run):
    assert run.latest_state() is None
    assert Run(run.path / "nowhere").latest_state() is None


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_damaged_newest_checkpoint_is_reported_and_skipped(share, run, capsys):
    run.save(1, {"iteration": 1})
    run.save(2, {"iteration": 2, "weights": torch.ones(50)})
    newest = run.checkpoints()[-1]
    cut(newest, share)
    assert run.latest_state() == {"iteration": 1}
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    assert str(newest) in out


def test_damaged_checkpoints_do_not_displace_new_ones(run, capsys):
    for iteration in (100, 200, 300):
        run.save(iteration, {"iteration": iteration}, keep=3)
    for file in run.checkpoints()[1:]:
        cut(file)
    assert run.latest_state() == {"iteration": 100}
    assert len(run.checkpoints()) == 3, "reading renames nothing"
    assert run.latest_state(retire=True) == {"iteration": 100}
    run.save(110, {"iteration": 110}, keep=2)
    assert [int(file.stem) for file in run.checkpoints()] == [100, 110]
    assert run.latest_state() == {"iteration": 110}
    assert len(list((run.path / "checkpoints").glob("*.damaged"))) == 2, (
        "damaged files are kept under another name"
    )


def test_a_record_file_that_is_a_link_is_not_followed(run, tmp_path):
    (tmp_path / "outside").write_text("mine\n")
    (run.path / "evaluations.jsonl").symlink_to(tmp_path / "outside")
    with pytest.raises(VkdError, match="cannot be written"):
        run.append("evaluations", {"iteration": 1})
    assert (tmp_path / "outside").read_text() == "mine\n"


def test_damage_to_every_checkpoint_is_an_error(run):
    for iteration in (1, 2):
        run.save(iteration, {"iteration": iteration})
    for file in run.checkpoints():
        cut(file)
    with pytest.raises(VkdError) as caught:
        run.latest_state()
    assert "every checkpoint is damaged" in one_line(caught)


def test_a_partially_written_checkpoint_is_ignored(run):
    run.save(1, {"iteration": 1})
    file = run.path / "checkpoints" / ".00000002.safetensors.7.vkd-tmp"
    file.write_bytes(b"half")
    assert run.latest_state() == {"iteration": 1}


# records


def test_records_are_read_in_order(run):
    records = [{"iteration": i, "loss": i / 3, "name": "FD(ü)\n"} for i in range(3)]
    for record in records:
        run.append("metrics", record)
    assert run.records("metrics") == records
    assert run.records("evaluations") == []


@pytest.mark.parametrize("cut_off", [b'{"iteration": 3, "lo', b"{", b"\xff\xfe\n", b'{"a": "\xc3'])
def test_a_truncated_last_line_is_dropped(cut_off, run):
    for i in range(3):
        run.append("metrics", {"iteration": i})
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(cut_off)
    whole = [{"iteration": i} for i in range(3)]
    assert run.records("metrics") == whole
    run.append("metrics", {"iteration": 3})
    assert run.records("metrics") == [*whole, {"iteration": 3}]


@pytest.mark.parametrize("iteration", [-1, 0, 2, 9])
def test_truncate_drops_later_records(iteration, run):
    for i in range(4):
        run.append("metrics", {"iteration": i})
    run.truncate("metrics", iteration)
    assert [record["iteration"] for record in run.records("metrics")] == [
        i for i in range(4) if i <= iteration
    ]
    run.append("metrics", {"iteration": 7})
    assert run.records("metrics")[-1] == {"iteration": 7}


def test_invalid_lines_are_left_out(run):
    lines = ["5", "null", "[1]", '"text"', "[" * 100_000, "{", '{"iteration": 1}', '{"epoch": 2}']
    (run.path / "metrics.jsonl").write_text("\n".join(lines))
    assert run.records("metrics") == [{"iteration": 1}, {"epoch": 2}]
    run.truncate("metrics", 5)
    assert run.records("metrics") == [{"iteration": 1}]


def test_an_unwritable_record_file_is_an_error(run):
    (run.path / "metrics.jsonl").mkdir()
    with pytest.raises(VkdError) as caught:
        run.append("metrics", {"iteration": 1})
    assert "metrics.jsonl: cannot be written" in one_line(caught)


# the exported generator


def generator(classes: int = 10) -> Generator:
    torch.manual_seed(0)
    network = Generator(32, 2, 8, classes)
    for buffer in (b for n, b in network.named_buffers() if "stored_mean" in n):
        buffer.normal_()
    return network


@pytest.mark.parametrize("classes", [0, 10])
def test_a_generator_is_loaded_frozen_in_eval_mode(classes, run):
    network = generator(classes)
    shares = [1 / max(classes, 1)] * max(classes, 1)
    run.export(network, {"iteration": 7, "shares": shares})
    loaded, facts = run.load_generator("cpu")
    expected = {"iteration": 7, "shares": shares, "classes": classes, "channels": 3, "names": []}
    assert facts == expected
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    z, labels = torch.randn(3, 8), torch.zeros(3, dtype=torch.int64)
    torch.testing.assert_close(loaded(z, labels), network.eval()(z, labels))


FACTS = {"iteration": 1, "shares": [0.1] * 10}


def refused_generator(run) -> str:
    with pytest.raises(VkdError) as caught:
        run.load_generator("cpu")
    return one_line(caught)


def test_a_missing_generator_is_an_error(run):
    assert "no generator yet" in refused_generator(run)
    assert "no generator yet" in refused_generator(Run(run.path / "nowhere"))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_generator_is_refused(share, run):
    run.export(generator(), FACTS)
    cut(run.generator_file, share)
    assert "damaged" in refused_generator(run)


def test_a_generator_of_other_settings_is_refused(run):
    run.export(generator(), FACTS)
    text = (run.path / "settings.yaml").read_text()
    (run.path / "settings.yaml").write_text(text.replace("ch: 2", "ch: 4"))
    assert "does not fit its settings" in refused_generator(run)


@pytest.mark.parametrize(
    "facts",
    [
        None,
        "{}",
        "[]",
        "no json",
        '{"iteration": 1, "shares": [1.0], "classes": "ten"}',
        '{"iteration": 1e400, "shares": [1.0], "classes": 0}',
        '{"iteration": -1, "shares": [1.0], "classes": 0}',
        '{"iteration": 1, "shares": [], "classes": 0}',
        '{"iteration": 1, "shares": [0.5, 0.5], "classes": 0}',
        '{"iteration": 1, "shares": [0.0], "classes": 0}',
        '{"iteration": 1, "shares": [NaN], "classes": 0}',
        '{"iteration": 1, "shares": ' + "[" * 5000 + "]" * 5000 + ', "classes": 0}',
        '{"iteration": 1, "shares": [1.0], "classes": 10000000000000}',
        '{"iteration": 1, "shares": [1.0], "classes": 0, "names": ["a"]}',
    ],
)
def test_a_generator_with_invalid_facts_is_refused(facts, run):
    write_generator(run, '{"iteration": 1, "shares": [1.0], "classes": 0}')
    run.load_generator("cpu")
    write_generator(run, facts)
    message = refused_generator(run)
    assert "damaged" in message or "not a file of this project: " in message


def write_generator(run, facts):
    state = generator(0).state_dict()
    metadata = None if facts is None else {"facts": facts, "sha256": digest(facts, state)}
    save_file(state, run.generator_file, metadata)


def test_a_flipped_bit_in_the_generator_is_detected(run):
    run.export(generator(), FACTS)
    data = bytearray(run.generator_file.read_bytes())
    data[-1000] ^= 0x10
    run.generator_file.write_bytes(data)
    assert "damaged" in refused_generator(run)


def test_a_generator_without_settings_is_refused(run):
    run.export(generator(), FACTS)
    os.remove(run.path / "settings.yaml")
    assert "no such settings file" in refused_generator(run)


def test_exported_file_is_plain_safetensors_with_its_settings(run):
    run.export(generator(), {"iteration": 1})
    with safe_open(run.generator_file, "pt") as file:
        assert set(file.keys()) == set(generator().state_dict())
        assert json.loads(file.metadata()["facts"])["iteration"] == 1
        assert file.metadata()["settings"] == run.settings().dump()


# devices


def test_the_device_is_picked():
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("able", [False, True])
def test_bfloat16_is_used_only_on_devices_that_support_it(able, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for known in (precision.has_bfloat16, precision._supports):
        monkeypatch.setattr(precision, known.__name__, cache(known.__wrapped__))
    x = torch.ones(2, 2)
    for _ in range(2):
        with precision.autocast("cpu", "bfloat16"):
            assert (x @ x).dtype == (torch.bfloat16 if able else torch.float32)
    assert capsys.readouterr().out.count("computing in float32") == (not able)
    with precision.autocast("cpu", "float32"):
        assert (x @ x).dtype == torch.float32


def test_a_device_without_float64_is_refused(monkeypatch):
    def zeros(*_, dtype, device):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    monkeypatch.setattr(torch, "zeros", zeros)
    with pytest.raises(VkdError, match="device mps: not usable here"):
        pick_device("mps")


@pytest.mark.parametrize("name", ["", "gpu", "cpu:x", "meta", "hpu", "xla", "vulkan", "cuda:99"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(VkdError) as caught:
        pick_device(name)
    assert f"device {name}: not usable here" in one_line(caught)
    assert "set device=cpu" in str(caught.value)
