"""Names of tensors without the parts that wrappers of a model add to them, such as `module.` and `_orig_mod.`."""

from collections.abc import Iterable

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


def stored_names(names: Iterable[str], where: object) -> dict[str, str]:
    """Return the names in the file by the names without wrappers; raise ValueError if two tensors have one name."""
    found: dict[str, str] = {}
    for name in names:
        if (other := found.setdefault(bare(name), name)) != name:
            raise ValueError(f"{where} has both {other!r} and {name!r}: two tensors of one name")
    return found


def adapter(names: Iterable[str]) -> str:
    """Return what to do with a LoRA adapter, which has no weights of its own; "" if no tensor is part of one."""
    first = next((name for name in names if any(part.startswith("lora_") for part in name.split("."))), None)
    if first is None:
        return ""
    return (
        f"a LoRA adapter ({first}, ...), which holds changes of weights and not the weights; merge it into its model by"
        " PEFT's merge_and_unload() and save_pretrained(folder), and read that folder"
    )
