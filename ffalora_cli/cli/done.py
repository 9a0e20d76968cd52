"""Refuses jobs whose inputs have changed since they were done, or are not there; nothing is run."""

from __future__ import annotations

from collections.abc import Sequence

from ffalora_cli.config.errors import naming_job
from ffalora_cli.config.job import Job
from ffalora_cli.records.run_directory import SUMMARY, run_folder


def check_done(jobs: Sequence[Job], sweep: bool) -> list[str]:
    """Refuse jobs whose finished run was made from inputs that have changed since.

    Args:
        jobs: those whose run is not finished are left alone.
        sweep: whether they are jobs of one, which has no ``--again``.

    Returns:
        One line about what could not be compared, each once.

    Raises:
        ConfigError: the first that changed; of several jobs it names the job.
    """
    folders = [run_folder(job) for job in jobs]
    done = [n for n, folder in enumerate(folders) if (folder / SUMMARY).exists()]
    if not done:  # nothing to compare, and nothing to load for it
        return []
    from ffalora_cli.experiment.inputs import InputsCheck

    inputs, notes = InputsCheck(), []
    typed = [job.overrides for job in jobs]
    for n in done:
        with naming_job(n + 1, typed):
            notes.append(inputs.check(folders[n], jobs[n].config, again=not sweep))
    return list(dict.fromkeys(note for note in notes if note is not None))


def check_inputs(jobs: Sequence[Job]) -> None:
    """Refuse jobs that would find their data, model or tokenizer missing.

    Args:
        jobs: that wait in a queue before they could say so themselves.

    Raises:
        ConfigError: the first job, which it names, and what is not there.
    """
    from ffalora_cli.experiment.inputs import inputs_of
    from ffalora_cli.models.source import check_processor_files

    seen: set[str] = set()
    typed = [job.overrides for job in jobs]
    for number, job in enumerate(jobs, start=1):
        config = job.config
        read = repr((config.task, config.model, config.paths.data))
        if read not in seen:
            seen.add(read)
            with naming_job(number, typed):
                inputs_of(config)
                check_processor_files(config.model, config.task.image_column is not None)
