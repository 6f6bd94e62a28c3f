"""Jobs of Slurm in which workers of Dask run, as a YAML file asks for them."""

import difflib
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dipsim.errors import DipsimError, brief, first_problem
from dipsim.extras import need
from dipsim.files import read_yaml


class SlurmJobs(BaseModel):
    """Number of jobs, and arguments of ``dask_jobqueue.SLURMCluster``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    jobs: int | None = Field(None, ge=1)
    minimum_jobs: int = Field(1, ge=1)
    maximum_jobs: int | None = Field(None, ge=1)
    cores: int = Field(ge=1)
    memory: str
    processes: int | None = Field(None, ge=1)
    queue: str | None = None
    account: str | None = None
    walltime: str | None = None
    job_cpu: int | None = Field(None, ge=1)
    job_mem: str | None = None
    job_name: str = "dipsim"
    job_extra_directives: list[str] = []
    job_directives_skip: list[str] = []
    job_script_prologue: list[str] = []
    log_directory: str | None = None
    local_directory: str | None = None
    keys_in: str = "."
    interface: str | None = None
    python: str | None = None
    death_timeout: int | None = Field(None, ge=1)
    worker_extra_args: list[str] = []
    scheduler_options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if (self.jobs is None) == (self.maximum_jobs is None):
            raise ValueError("give jobs, or maximum_jobs for as many as there is work for")
        if self.minimum_jobs > (self.maximum_jobs or self.minimum_jobs):
            raise ValueError(f"minimum_jobs {self.minimum_jobs}: more than maximum_jobs")
        if self.cores % (self.processes or 1):
            raise ValueError(f"processes {self.processes}: must divide the cores, {self.cores}")
        return self

    @property
    def workers(self) -> int:
        """Chunks that all jobs run at a time, one for each core."""
        return (self.jobs or self.maximum_jobs or 1) * self.cores

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of ``SLURMCluster``; what is not given, the user's configuration of
        Dask says."""
        given = self.model_dump(
            exclude={"jobs", "minimum_jobs", "maximum_jobs", "keys_in"}, exclude_defaults=True
        )
        return {
            "job_name": self.job_name,
            "processes": self.cores,
            **given,
            "scheduler_options": {
                "dashboard": False,
                "dashboard_address": ":0",
                **self.scheduler_options,
            },
        }


def read_slurm(path: Path) -> SlurmJobs:
    """Read a file of jobs.

    Raises:
        DipsimError: no such file, an unknown key or an impossible value.
    """
    need("--dask slurm:FILE", "dask", "dask_jobqueue", "cryptography")
    given = read_yaml(path, DipsimError)
    for key in given:
        if key not in SlurmJobs.model_fields:
            close = difflib.get_close_matches(str(key), SlurmJobs.model_fields, 1)
            meant = f"did you mean {close[0]}?" if close else "docs/clusters.md lists them"
            raise DipsimError(f"{path}: unknown key {brief(repr(key), 60)}: {meant}")
    try:
        return SlurmJobs.model_validate(given)
    except ValidationError as problem:
        raise DipsimError(f"{path}: {first_problem(problem)}") from None


@contextmanager
def started(jobs: SlurmJobs) -> Iterator[Any]:
    """Submit jobs, whose workers a scheduler in this process waits for; in the end cancel them.

    Workers and scheduler talk by TLS, with keys that only the user can read, as others may be on
    the same machines.

    Yields:
        a ``SLURMCluster``, as soon as Slurm has accepted a job.

    Raises:
        DipsimError: Slurm is not here, or refuses the first job.
    """
    with _own_interrupt():
        from dask_jobqueue import SLURMCluster
        from dask_jobqueue.slurm import SLURMJob
    from distributed.deploy.spec import ProcessInterface

    if shutil.which(SLURMJob.submit_command) is None:
        raise DipsimError("--dask slurm: no sbatch here: run dipsim where jobs are submitted")
    told: SimpleQueue[str | None] = SimpleQueue()

    class Job(SLURMJob):  # type: ignore[misc]
        """A job that tells whether it was accepted: a cluster would only log it."""

        async def start(self) -> None:
            try:
                await super().start()
                told.put(None)
            except (RuntimeError, ValueError, OSError) as problem:
                told.put(str(problem).rpartition("stderr:")[2].strip())
                await ProcessInterface.start(self)

    with ExitStack() as stack:
        try:
            folder = stack.enter_context(TemporaryDirectory(prefix=".dipsim-", dir=jobs.keys_in))
            arguments = {**jobs.arguments(), "security": _security(Path(folder))}
            cluster = stack.enter_context(SLURMCluster(job_cls=Job, **arguments))
        except (RuntimeError, ValueError, OSError) as problem:
            raise DipsimError(f"--dask slurm: {brief(problem, 300)}") from None
        if jobs.jobs is not None:
            cluster.scale(jobs=jobs.jobs)
        else:
            cluster.adapt(minimum_jobs=jobs.minimum_jobs, maximum_jobs=jobs.maximum_jobs)
        refusal = told.get()
        if refusal is not None:
            raise DipsimError(f"--dask slurm: sbatch refuses the job: {brief(refusal, 300)}")
        yield cluster


def _security(folder: Path) -> Any:
    """Return how a scheduler and its workers know each other, with keys in files of a folder."""
    from distributed import Security

    made = Security.temporary()
    key, certificate = folder.resolve() / "key.pem", folder.resolve() / "certificate.pem"
    key.write_text(made.tls_worker_key)
    certificate.write_text(made.tls_worker_cert)
    roles = ("client", "scheduler", "worker")
    return Security(
        require_encryption=True,
        tls_ca_file=str(certificate),
        **{f"tls_{role}_key": str(key) for role in roles},
        **{f"tls_{role}_cert": str(certificate) for role in roles},
    )


@contextmanager
def _own_interrupt() -> Iterator[None]:
    """Keep what Ctrl-C does: dask-jobqueue makes it end the process as soon as it is imported."""
    before = signal.getsignal(signal.SIGINT)
    yield
    if signal.getsignal(signal.SIGINT) is not before:
        signal.signal(signal.SIGINT, before)
