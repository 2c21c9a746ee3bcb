// Feeds arbitrary files to the reader of snapshots, whole and with their checksums made right, so
// that what lies behind them is reached, too. Whatever is read must be within the file.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/checksum.h"
#include "server/session/session_record.h"
#include "server/store/snapshot_file.h"
#include "tests/fuzz/memory_file.h"

namespace {

using mnemosyne::server::SnapshotReader;

void Read(const uint8_t* data, size_t size) {
  const mnemosyne::fuzz::MemoryFile file(data, size);
  const auto reader = SnapshotReader::Open(file.path());
  if (!reader.ok()) return;
  for (const auto& [key, text] : (*reader)->texts()) (void)mnemosyne::server::RecordFromJson(text);
  uint64_t bytes = 0;
  for (const auto& tensor : (*reader)->tensors()) {
    if (__builtin_add_overflow(bytes, tensor.byte_count, &bytes) || bytes > size) return;
  }
  std::vector<std::byte> body(bytes);
  if ((*reader)->Read(body).ok()) (void)(*reader)->Finish();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Read(data, size);
  // The header's checksum is in its text; its digits count as zeros.
  constexpr char kKey[] = "\"header_crc32c\":\"";
  std::string text(reinterpret_cast<const char*>(data), size);
  const size_t at = text.find(kKey);
  if (at == std::string::npos || size < 8) return 0;
  const size_t digits = at + sizeof(kKey) - 1;
  if (digits + 8 > size) return 0;
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, data, sizeof(header_bytes));
  if (header_bytes > size - 8) return 0;
  text.replace(digits, 8, "00000000");
  const auto header = std::as_bytes(std::span(text)).first(8 + header_bytes);
  char crc[9];
  std::snprintf(crc, sizeof(crc), "%08x", mnemosyne::ExtendCrc32c(0, header));
  text.replace(digits, 8, crc);
  Read(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  return 0;
}
