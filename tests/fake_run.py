"""A stand-in for `python -m gan_vkd` that trains nothing, and a reader of its event log.

It appends its events to OUT/events and follows the file OUT/NAME.does: `fail`, `wait` (until a
signal, handled as a run does), `stubborn` (ignores signals), or `meet N` (continues once N runs
have started).
"""

import os
import signal
import sys
import time


def main() -> None:
    folder = sys.argv[sys.argv.index("--out") + 1]
    out, name = os.path.split(folder)
    asked, does = os.path.join(out, name + ".does"), ""
    if os.path.exists(asked):
        with open(asked) as file:
            does = file.read()
    log = os.open(os.path.join(out, "events"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(what):
        os.write(log, f"{name} {what} {os.getpid()}\n".encode())

    received = []

    def handle(number, frame):
        received.append(number)
        say(signal.Signals(number).name)

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    os.makedirs(folder, exist_ok=True)
    print("threads", os.environ.get("OMP_NUM_THREADS"))
    print("gpu", os.environ.get("CUDA_VISIBLE_DEVICES"))
    print("name", name, "\rhalf way\r", end="", file=sys.stderr)
    say("start")
    if does == "fail":
        print("vkd: it cannot go on", file=sys.stderr)
        sys.exit(3)
    while does == "stubborn" or (does == "wait" and not received):
        time.sleep(0.02)
    if does.startswith("meet"):
        deadline = time.monotonic() + 30
        while sum(what == "start" for _, what, _ in events(out)) < int(does.split()[1]):
            if time.monotonic() > deadline:
                sys.exit("the other runs did not start")
            time.sleep(0.02)
    time.sleep(0.3)
    say("end")
    if received:
        sys.exit(128 + received[0])
    print("done well")


def events(out: "os.PathLike[str]") -> list[list[str]]:
    """Returns the events as [run, event, process id]."""
    file = os.path.join(out, "events")
    if not os.path.exists(file):
        return []
    with open(file) as lines:
        return [line.split() for line in lines]


if __name__ == "__main__":
    main()
