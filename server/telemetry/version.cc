#include "server/telemetry/version.h"

namespace mnemosyne::server {

const char* const kVersion = MNEMOSYNE_VERSION;
const char* const kCommit = MNEMOSYNE_COMMIT;

}  // namespace mnemosyne::server
