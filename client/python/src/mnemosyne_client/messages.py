"""The messages of package `mnemosyne.v1`, built at import.

Their fields are documented in `proto/mnemosyne/v1`. The classes come from a descriptor set that is
part of this package, so that every version of protobuf since 4.21 can build them; generated modules
would bind the package to the version that made them. They live in a pool of their own and do not
meet the modules of another package that uses the same protos.

All messages and top-level enum values are attributes of this module, the well-known types
`Timestamp`, `FieldMask` and `Any` among them.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__: list[str] = []


def _build_classes() -> None:
    """Makes every message and enum value of the descriptor set an attribute of this module."""
    pool = descriptor_pool.DescriptorPool()
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(
        Path(__file__).with_name("descriptors.binpb").read_bytes()
    )
    for file in descriptors.file:
        pool.AddSerializedFile(file.SerializeToString())
    if hasattr(message_factory, "GetMessageClass"):
        get_class = message_factory.GetMessageClass
    else:
        get_class = message_factory.MessageFactory(pool).GetPrototype

    for file in descriptors.file:
        for message in file.message_type:
            full_name = f"{file.package}.{message.name}"
            globals()[message.name] = get_class(pool.FindMessageTypeByName(full_name))
            __all__.append(message.name)
        for enum in file.enum_type:
            for value in enum.value:
                globals()[value.name] = value.number
                __all__.append(value.name)


_build_classes()
