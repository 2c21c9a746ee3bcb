// Feeds arbitrary texts and bytes to what reads a kept session: its record, a spec, its last step,
// a logged step. What is accepted must be written and read again as the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>
#include <vector>

#include "server/session/session_record.h"

namespace {

using namespace mnemosyne::server;  // NOLINT(google-build-using-namespace)

void TryRecord(std::string_view text) {
  const auto record = RecordFromJson(text);
  if (!record.ok()) return;
  const auto json = ToJson(*record);
  if (!json.ok()) return;  // Texts that are no UTF-8 cannot be written.
  const auto again = RecordFromJson(*json);
  if (!again.ok() || again->name != record->name || again->step != record->step) std::abort();
}

void TrySpec(std::string_view text) {
  const auto spec = SpecFromJson(text);
  if (!spec.ok()) return;
  const auto json = ToJson(*spec);
  if (json.ok() && !SpecFromJson(*json).ok()) std::abort();
}

void TryLast(std::span<const std::byte> bytes) {
  const auto last = LastStepFromBytes(bytes);
  if (!last.ok()) return;
  const std::vector<std::byte> written = ToBytes(*last);
  if (!LastStepFromBytes(written).ok()) std::abort();
}

void TryLogged(std::span<const std::byte> bytes) {
  std::span<const std::byte> gradients;
  const auto step = LoggedStepFromBytes(bytes, gradients);
  if (!step.ok()) return;
  if (gradients.size() > bytes.size()) std::abort();
  std::span<const std::byte> none;
  const std::vector<std::byte> written = ToBytes(*step);
  if (!LoggedStepFromBytes(written, none).ok() || !none.empty()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  const auto bytes = std::as_bytes(std::span(data + 1, size - 1));
  switch (data[0] % 4) {
    case 0:
      TryRecord(text);
      break;
    case 1:
      TrySpec(text);
      break;
    case 2:
      TryLast(bytes);
      break;
    default:
      TryLogged(bytes);
  }
  return 0;
}
