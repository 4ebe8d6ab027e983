"""`attnmap serve` without a browser: from a request to its first live picture and to its comparison, and memory over many runs.

    cargo build --release
    python benches/serve.py target/release/attnmap --runs 100

The page's own share comes on top: `cargo test --release --test browser serve::measured -- --ignored --nocapture` has both.
Needs Python alone, on Linux.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

PROMPT = "a red apple to the left of a blue heart on the beach"


class Server:
    """A server with runs in a folder of their own, and the events that it sends."""

    def __init__(self, program: str, folder: str):
        command = [program, "serve", "--quiet", "--out", folder]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = urlsplit(self.process.stdout.readline().strip())
        stream = http.client.HTTPConnection(self.url.netloc)
        stream.request("GET", f"{self.url.path}events")
        self.stream = stream.getresponse()
        self.connection = stream

    def post(self, job: dict) -> None:
        connection = http.client.HTTPConnection(self.url.netloc)
        headers = {"content-type": "application/json", "origin": f"http://{self.url.netloc}"}
        connection.request("POST", f"{self.url.path}jobs", json.dumps(job), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"{answer.status}: {answer.read().decode()}")
        connection.close()

    def next(self, name: str) -> dict:
        """The next event of this name."""
        last = ""
        while True:
            line = self.stream.readline().decode().strip()
            if line.startswith("event: "):
                last = line.removeprefix("event: ")
            elif line.startswith("data: ") and last == "failed":
                raise SystemExit(line)
            elif line.startswith("data: ") and last == name:
                return json.loads(line.removeprefix("data: "))

    def memory(self) -> float:
        """MB that are the server's own, files aside."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=100)
    arguments = parser.parse_args()
    live, compared = [], []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(arguments.program, folder)
        try:
            server.next("state")
            for seed in range(arguments.rounds + 1):
                start = time.perf_counter()
                server.post({"kind": "run", "prompt": PROMPT, "seed": str(seed)})
                while not server.next("step").get("image"):
                    pass
                first = time.perf_counter() - start
                server.next("made")
                whole = time.perf_counter() - start
                server.next("done")
                # The first has nothing to be compared with.
                if seed:
                    live.append(1000 * first)
                    compared.append(1000 * whole)
                    print(f"first live picture {live[-1]:.0f} ms, comparison {compared[-1]:.0f} ms", flush=True)
            print(f"medians: {statistics.median(live):.0f} ms, {statistics.median(compared):.0f} ms", flush=True)
            for run in range(1, arguments.runs + 1):
                server.post({"kind": "run", "prompt": "a red apple", "seed": "0", "steps": 5})
                server.next("done")
                if run % 10 == 0:
                    print(f"memory after {run} further runs: {server.memory():.0f} MB", flush=True)
        finally:
            server.process.terminate()
            server.process.wait()


if __name__ == "__main__":
    main()
