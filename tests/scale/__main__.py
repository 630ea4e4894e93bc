"""`make scale-queue`: the queue and the service over it with 200 and 200,000 shards. Status 1 if a target is missed."""

import sys
import tempfile
from pathlib import Path

from service.queue.leases import connect
from service.run.redis_server import RedisServer
from tests.scale import bench_queue
from tests.scale.figures import Figure, table

SIZES = (200, 200_000)


def main() -> int:
    """Prints a table; the exit status."""
    columns: dict[str, list[Figure]] = {}
    for shards in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            server = RedisServer(Path(folder) / "redis")
            server.start()
            try:
                with connect(server.url) as redis:
                    columns[f"{shards:,} shards"] = bench_queue.measure(redis, shards)
            finally:
                server.close()
    sys.stdout.write(table(columns) + "\n")
    return int(any(figure.missed for figures in columns.values() for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
