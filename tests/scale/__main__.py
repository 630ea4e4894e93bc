"""`make scale-queue`: the queue and the service over it with 200 and 200,000 shards. Status 1 if a target is missed."""

import sys
import tempfile
from pathlib import Path

from service.queue.leases import connect
from service.run.redis_server import RedisServer
from tests.scale import bench_queue, bench_service
from tests.scale.figures import Figure, show

SIZES = (200, 200_000)


def measure(shards: int) -> list[Figure]:
    """All figures of one size, on a private Redis."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = RedisServer(folder / "redis")
        server.start()
        try:
            with connect(server.url) as redis:
                return bench_queue.measure(redis, shards) + bench_service.measure(redis, server.url, folder, shards)
        finally:
            server.close()


def main() -> int:
    """Prints a table; returns the exit status."""
    columns = {f"{shards:,} shards": measure(shards) for shards in SIZES}
    return show(columns)


if __name__ == "__main__":
    sys.exit(main())
