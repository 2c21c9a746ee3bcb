// What this process may use of the machine: less than all of it in a container.
#pragma once

#include <cstdint>

namespace mnemosyne::server {

// Bytes of memory: the machine's, or the control group's limit if that is less.
int64_t UsableMemoryBytes();

// Cores: the machine's, or what affinity and the control group's quota leave; at least 1.
int64_t UsableCores();

}  // namespace mnemosyne::server
