"""The models that a worker has: found through the catalogue, loaded when somebody asks, replaced when a new version appears, let go when unused."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlaas.auth.identity import Identity
from mlaas.errors import MLaaSError
from mlaas.inference import probes
from mlaas.inference.hosts import KeeperClient, Remote, refused
from mlaas.inference.served import NotLoaded, Served
from mlaas.inference.versions import Inline, Isolated, Version, features_of
from mlaas.models import staging
from mlaas.models.bundle import Bundle, read_bundle
from mlaas.models.catalogue import Catalogue, Found, NoModel, parse
from mlaas.models.engine import onnx_engine
from mlaas.models.manifest import TensorsRecord
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.web.problem import Problem

log = logging.getLogger("mlaas.inference.pool")

Key = tuple[str, str, frozenset[str], bool]
ROUTES = 10_000
RECHECK = 30.0  # s after which a reference is resolved again though its folders seem unchanged
FRESH = 2.0  # s; a folder that changed so recently may change again within the resolution of its time stamp
WIDEST = 10**6
LOADING = 2
FAILURES = 1000


@dataclass(slots=True)
class Route:
    """What a reference means to a caller now. watched: folders and when they changed last; used, checked: by time.monotonic."""

    served: Version
    watched: dict[Path, int]
    used: float
    checked: float
    settled: bool = False
    failed: tuple[int, float] = (0, 0.0)
    loading: asyncio.Task[None] | None = field(default=None)


def open_pool(settings: Settings, places: Places) -> ModelPool:
    """The pool of one worker process."""
    return ModelPool(settings, places)


class ModelPool:
    """`mlaas.inference.served.Pool` on the model repository."""

    def __init__(self, settings: Settings, places: Places) -> None:
        self._settings = settings
        self._places = places
        self.catalogue = Catalogue(places.repository)
        self.keeper = KeeperClient(settings, places)
        self._routes: OrderedDict[Key, Route] = OrderedDict()
        self._versions: dict[Found, Version] = {}
        self._loads: dict[Found, asyncio.Task[Version]] = {}
        self._failures: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._slots = asyncio.Semaphore(LOADING)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to look after the repository."""
        self._spawn(self._look_after())

    async def stop(self) -> None:
        """Let go of all models."""
        for task in [*self._tasks, *self._loads.values()]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._loads.values(), return_exceptions=True)
        self._routes.clear()
        for version in self._versions.values():
            version.close()
        self._versions.clear()
        await self.keeper.close()

    def get(self, reference: str, identity: Identity) -> Served:
        """The model that a caller means, if it is loaded. Raises NotLoaded."""
        route = self._routes.get((reference, identity.tenant, identity.groups, identity.admin))
        if route is None:
            raise NotLoaded(reference)
        route.used = time.monotonic()
        return route.served

    async def load(self, reference: str, identity: Identity) -> Served:
        """The model that a caller means, loaded first where needed. Raises Problem: 404 (none for them), 503 (it cannot be loaded)."""
        key: Key = (reference, identity.tenant, identity.groups, identity.admin)
        watched = await asyncio.to_thread(self._watched, key, None)
        try:
            found = await asyncio.to_thread(self._resolve, key)
        except NoModel as error:
            raise Problem(404, str(error), field="model") from None
        watched |= await asyncio.to_thread(self._watched, key, found)
        served = await self.version(found)
        self._routes[key] = Route(served, watched, time.monotonic(), time.monotonic(), _settled(watched))
        while len(self._routes) > ROUTES:
            self._routes.popitem(last=False)
        return served

    def versions(self, reference: str, identity: Identity) -> list[int]:
        """The versions of the model that a caller means. Raises Problem 404."""
        try:
            found = self._resolve((reference, identity.tenant, identity.groups, identity.admin))
        except NoModel as error:
            raise Problem(404, str(error), field="model") from None
        return self.catalogue.repository.versions(found.tenant, found.model)

    async def probe(self, folder: Path, tenant: str) -> TensorsRecord:
        """Load and run the bundle in a folder in a process of its own, and say what it takes. Raises Problem 422 with the reason."""
        try:
            found = await self.keeper.ask("try", key=str(folder), tenant=tenant, folder=str(folder))
        except Problem as problem:
            raise Problem(422, problem.detail, field="model") from None
        return TensorsRecord.model_validate(found["record"]["record"])

    async def adopt(self, folder: Path, bundle: Bundle) -> None:
        """Let the process that tried a folder out serve the version that it became; the folder may go."""
        await self.keeper.ask("adopt", **{"from": str(folder)}, key=str(bundle.path), folder=str(bundle.path))

    async def states(self, identity: Identity) -> list[dict[str, Any]]:
        """The models of a caller that are loaded here, or that failed: name, version, whether they have a process of their own, why one fails."""
        mine = [version for version in self._versions.values() if version.tenant == identity.tenant or identity.admin]
        found = [{"model": v.reference, "isolated": not v.inline, "platform": v.platform, "reason": await self._reason(v)} for v in mine]
        known = {version.reference for version in mine}
        failed = [(name, reason) for name, (tenant, reason) in self._failures.items() if tenant == identity.tenant or identity.admin]
        return found + [{"model": name, "isolated": True, "platform": "", "reason": reason} for name, reason in failed if name not in known]

    async def _reason(self, version: Version) -> str:
        if not isinstance(version, Isolated):
            return ""
        return str((await self.keeper.ask("why", key=version.remote.key)).get("reason", ""))

    async def version(self, found: Found) -> Version:
        """A version, loaded; those who ask meanwhile wait for the same. Raises Problem 404, 503."""
        known = self._versions.get(found)
        if known is not None:
            return known
        if found not in self._loads:
            task = self._loads[found] = asyncio.ensure_future(self._load(found))
            task.add_done_callback(lambda _: self._loads.pop(found, None))
        # Shielded: the first of those who wait may go away.
        return await asyncio.shield(self._loads[found])

    # ---- loading

    async def _load(self, found: Found) -> Version:
        async with self._slots:
            try:
                version = await self._make(found)
            except MLaaSError as error:
                raise self._failed(found, error) from None
        self._failures.pop(version.reference, None)
        self._versions[found] = version
        self._make_room()
        log.info("model %s loaded, %s", version.reference, "inside this worker" if version.inline else "in a process of its own")
        return version

    def _failed(self, found: Found, error: MLaaSError) -> Problem:
        if not found.path.is_dir():
            return Problem(404, f"the model {found.model!r} has no version {found.version} any more", field="model")
        problem = error if isinstance(error, Problem) else refused(f"the model cannot be loaded: {error}", 503, 30)
        self._failures[f"{found.tenant}:{found.model}@{found.version}"] = found.tenant, problem.detail
        while len(self._failures) > FAILURES:
            self._failures.popitem(last=False)
        return problem

    async def _make(self, found: Found) -> Version:
        bundle = await asyncio.to_thread(read_bundle, found.path, verify=False)
        if bundle.manifest.width > WIDEST:
            raise Problem(503, f"the model takes {bundle.manifest.width} numbers; {WIDEST} are the most that are served")
        features = await asyncio.to_thread(features_of, bundle)
        if bundle.manifest.tensors is None and bundle.manifest.engine == "onnx":
            record = await self._probed(found, bundle)
            if probes.is_fast(record):
                engine = await asyncio.to_thread(_engine, bundle)
                return Inline(found, bundle, features, TensorsRecord.model_validate(record["record"]), engine, int(record["memory"]))
        remote = Remote(self.keeper, self._settings, f"{found.path}", found.tenant, found.path)
        await remote.open()
        return Isolated(found, bundle, features, TensorsRecord.model_validate(remote.record["record"]), remote)

    async def _probed(self, found: Found, bundle: Bundle) -> dict[str, Any]:
        """How fast an ONNX graph is, and whether it is plain: measured once for all workers and restarts."""
        place = probes.place(self.keeper.folder, bundle)
        record = await asyncio.to_thread(probes.read, place)
        if record is None:
            record = (await self.keeper.ask("probe", tenant=found.tenant, folder=str(found.path)))["record"]
            await asyncio.to_thread(probes.write, place, record)
        return record

    def _make_room(self) -> None:
        """Put those out of memory that were not used longest, when all in this process take more than they may."""
        used = {id(route.served): route.used for route in sorted(self._routes.values(), key=lambda route: route.used)}
        total = sum(version.size for version in self._versions.values())
        for version in sorted(self._versions.values(), key=lambda version: used.get(id(version), time.monotonic())):
            if total <= self._settings.inference_memory or not version.inline:
                continue
            total -= version.size
            self._drop(version)

    def _drop(self, version: Version) -> None:
        for key in [key for key, route in self._routes.items() if route.served is version]:
            del self._routes[key]
        self._versions.pop(version.found, None)
        version.close()

    # ---- what a reference means

    def _resolve(self, key: Key) -> Found:
        reference, tenant, groups, admin = key
        return self.catalogue.resolve(reference, tenant, groups, admin=admin)

    def _watched(self, key: Key, found: Found | None) -> dict[Path, int]:
        """The folders whose change can change what a reference means: the model's, and that of a model of the caller's own with this name."""
        with contextlib.suppress(MLaaSError):
            repository = self.catalogue.repository
            folder = repository.model(key[1], parse(key[0]).model) if found is None else repository.model(found.tenant, found.model)
            return {folder: _changed(folder)}
        return {}

    # ---- looking after the repository

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(self._settings.inference_poll)
            try:
                await self._look()
            except Exception:
                log.exception("looking after the models failed")

    async def _look(self) -> None:
        now = time.monotonic()
        for key, route in list(self._routes.items()):
            if now - route.used > self._settings.inference_idle:
                del self._routes[key]
        for key, route in await asyncio.to_thread(self._suspects, list(self._routes.items()), now):
            if route.loading is None or route.loading.done():
                route.loading = self._spawn(self._renew(key, route))
        self._let_go()
        touched = [version.remote.key for version in self._versions.values() if isinstance(version, Isolated) and now - version.remote.used < FRESH]
        if touched:
            self.keeper.tell("touch", keys=touched)

    def _suspects(self, routes: list[tuple[Key, Route]], now: float) -> list[tuple[Key, Route]]:
        times: dict[Path, int] = {}
        for _, route in routes:
            for folder in route.watched:
                if folder not in times:
                    times[folder] = _changed(folder)
        return [
            (key, route)
            for key, route in routes
            if not route.settled or now - route.checked > RECHECK or any(times[folder] != when for folder, when in route.watched.items())
        ]

    async def _renew(self, key: Key, route: Route) -> None:
        """Resolve a reference again; a new version is loaded aside and then takes its place."""
        watched = {folder: await asyncio.to_thread(_changed, folder) for folder in route.watched}
        try:
            found = await asyncio.to_thread(self._resolve, key)
        except NoModel:
            self._routes.pop(key, None)
            return
        watched |= await asyncio.to_thread(self._watched, key, found)
        if found != route.served.found and not self._failed_lately(route, found):
            try:
                route.served = await self.version(found)
            except Problem as problem:
                route.failed = (found.version, time.monotonic())
                log.warning("model %s:%s@%d is not served: %s", found.tenant, found.model, found.version, problem.detail)
        route.watched, route.checked, route.settled = watched, time.monotonic(), _settled(watched)

    def _failed_lately(self, route: Route, found: Found) -> bool:
        version, when = route.failed
        return version == found.version and time.monotonic() - when < RECHECK

    def _let_go(self) -> None:
        """Close the versions that no reference means any more."""
        meant = {id(route.served) for route in self._routes.values()}
        for found, version in list(self._versions.items()):
            if id(version) not in meant and found not in self._loads:
                del self._versions[found]
                version.close()
                log.info("model %s let go", version.reference)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _engine(bundle: Bundle) -> Any:
    data = bundle.file("model.onnx").read_bytes()
    if staging.digest(bundle.path / "model.onnx") != bundle.manifest.files["model.onnx"]:
        raise MLaaSError("model.onnx has changed since it was written")
    return onnx_engine(data, bundle.manifest)


def _changed(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _settled(watched: dict[Path, int]) -> bool:
    return all(time.time_ns() - when > FRESH * 1e9 for when in watched.values())
