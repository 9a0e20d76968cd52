"""Says where a recommended learning rate is a guess."""

from __future__ import annotations

from ffalora_cli.config.schema import Config, Tuned


def guessed(config: Config) -> tuple[str, ...]:
    """That the model's recommended rate is a guess in this setting.

    To be asked of a rate that follows the model; one that was typed, or that an experiment sets (as
    those of ``ffalora tune`` do), is its writer's.
    """
    federation, model, method = config.federation, config.model, config.method
    private, optimizer = config.privacy.unit != "none", federation.local_optimizer
    setting = Tuned(config.task.kind, optimizer, method.trained_factors, private)
    if setting in model.tuned or model.random_weights:
        return ()
    where = [config.task.kind, optimizer, method.trained_factors.replace("_", " ")]
    where.append("private" if private else "not private")
    return (
        f"federation.local_lr={federation.local_lr:g} is a guess: nobody tuned it for model="
        f"{model.name} ({', '.join(where)}); before comparing methods, find one: ffalora tune",
    )
