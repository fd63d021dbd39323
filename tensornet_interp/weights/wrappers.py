"""Names of tensors without the parts that wrappers of a model add to them, such as `module.` and `_orig_mod.`."""

ANYWHERE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # no model has modules of these names
IN_FRONT = ("base_model.model.", "module.", "model.")


def unwrapped(name: str) -> str:
    """Return the name without the parts that compilation, FSDP and activation checkpoints put anywhere into it."""
    for part in ANYWHERE:
        name = name.replace(part, "")
    return name


def bare(name: str) -> str:
    """Return the name without any part of a wrapper, also without those in front, which models have too."""
    name = unwrapped(name)
    while (part := next((part for part in IN_FRONT if name.startswith(part)), None)) is not None:
        name = name.removeprefix(part)
    return name
