"""Text that commands a terminal is shown, not obeyed."""

import io
import sys

from tqdm import tqdm

from gan_vkd.runtime.terminal import PlainStream, plain, plain_output


def test_control_characters_become_escapes():
    assert plain("a\x1b[2Jb\x07\x9bc\x7f\r\u202e\ud800") == (
        "a\\x1b[2Jb\\x07\\x9bc\\x7f\\r\\u202e\\ud800"
    )


def test_other_text_stays():
    text = "Zwölf → 12\t±\n日本語 🙂"
    assert plain(text) == text


def test_a_stream_keeps_the_carriage_returns_of_progress_bars():
    raw = io.StringIO()
    bar = tqdm(total=2, file=PlainStream(raw), mininterval=0, desc="arm \x1b[31m")
    bar.update(2)
    bar.close()
    shown = raw.getvalue()
    assert "\r" in shown
    assert "\x1b" not in shown
    assert "arm \\x1b[31m: 100%" in shown


def test_output_is_plain_within_the_context_alone(capsys):
    before = sys.stdout, sys.stderr
    with plain_output():
        print("one\x1b[0m", end="")
        print("two\x1b[0m", end="", file=sys.stderr)
        assert sys.stdout.encoding == before[0].encoding
        assert sys.stdout.isatty() == before[0].isatty()
    assert (sys.stdout, sys.stderr) == before
    assert tuple(capsys.readouterr()) == ("one\\x1b[0m", "two\\x1b[0m")
