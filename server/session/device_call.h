// Calls of the device from a thread that may wait for it.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "server/session/step_executor.h"

namespace mnemosyne::server {

// Runs `task` on the executor's thread and waits for it; waits, too, while the queue is full. Not
// from that thread. Unavailable once the executor has stopped.
absl::Status CallDevice(StepExecutor& executor,
                        const std::function<absl::Status(StepExecutor::Device&)>& task);

}  // namespace mnemosyne::server
