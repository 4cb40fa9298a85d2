"""What starting costs: CPU seconds (user and system) of `prefloop --help`, `prefloop jobs list`, and a web server until it answers
/healthz.

    python -m bench.start_up [--rounds 5] [--checkout DIR]

Each is a fresh process on an empty database of its own, which is migrated before. Prints the smallest and the median of all rounds:
other programs on the machine add to both. --checkout measures another checkout with this one's Python.
"""

import argparse
import http.client
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def command(checkout: Path, environment: dict[str, str], *words: str) -> tuple[float, float]:
    """(CPU seconds, seconds) of one command."""
    before, began = cpu_of_children(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "app.cli", *words], cwd=checkout, env=environment, check=True, capture_output=True
    )
    return cpu_of_children() - before, time.perf_counter() - began


def web(checkout: Path, environment: dict[str, str]) -> tuple[float, float]:
    """(CPU seconds, seconds) of a web server from its start to its first answer, and to its end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before, began = cpu_of_children(), time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve"],
        cwd=checkout,
        env=environment | {"PREFLOOP_PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not is_healthy(port):
            if server.poll() is not None or time.perf_counter() - began > 120:
                raise SystemExit("the web server doesn't answer")
            time.sleep(0.02)
        seconds = time.perf_counter() - began
    finally:
        server.terminate()
        server.wait()
    return cpu_of_children() - before, seconds


def is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkout", type=Path, default=Path.cwd())
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFLOOP_")}
        environment["PREFLOOP_DATA_DIR"] = folder
        command(options.checkout, environment, "migrate")
        rows: dict[str, list[tuple[float, float]]] = {
            "prefloop --help": [],
            "prefloop jobs list": [],
            "web server to /healthz": [],
        }
        for _ in range(options.rounds):
            rows["prefloop --help"].append(command(options.checkout, environment, "--help"))
            rows["prefloop jobs list"].append(command(options.checkout, environment, "jobs", "list"))
            rows["web server to /healthz"].append(web(options.checkout, environment))
    print(f"{'':26}{'CPU s, least':>14}{'median':>10}{'s, least':>12}{'median':>10}")
    for name, results in rows.items():
        cpu, seconds = zip(*results, strict=True)
        print(
            f"{name:26}{min(cpu):14.2f}{statistics.median(cpu):10.2f}{min(seconds):12.2f}{statistics.median(seconds):10.2f}"
        )


if __name__ == "__main__":
    main()
