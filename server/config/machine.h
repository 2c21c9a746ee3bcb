// What this process may use of the machine, less than all of it in a container, and where its files
// are.
#pragma once

#include <cstdint>
#include <string>

namespace mnemosyne::server {

// Bytes of memory: the machine's, or the control group's limit if that is less.
int64_t UsableMemoryBytes();

// Cores: the machine's, or what affinity and the control group's quota leave; at least 1.
int64_t UsableCores();

// Lets this process open `needed` files, or as many as the machine allows; returns how many it may.
int64_t RaiseOpenFileLimit(int64_t needed);

// The folder of the models that came with this program: `../share/mnemosyne/models` from its own
// folder, where it is installed, or `../../../models`, where it was built. Empty if there is none.
std::string FindInstalledModels();

}  // namespace mnemosyne::server
