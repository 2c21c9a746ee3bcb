// Feeds arbitrary files to the safetensors reader. Whatever it accepts must account for every byte
// of the file, and read back.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "base/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto file = mnemosyne::Safetensors::Parse({bytes.begin(), bytes.end()});
  if (!file.ok()) return 0;
  size_t data_bytes = 0;
  for (const mnemosyne::SafetensorsTensor& tensor : file->tensors()) {
    if (file->Data(tensor).size() != tensor.byte_count) std::abort();
    if (file->Find(tensor.name) != &tensor) std::abort();
    if (file->Floats(tensor).ok() && tensor.byte_count != 4 * tensor.element_count) std::abort();
    data_bytes += tensor.byte_count;
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < 8; ++i) header_bytes |= uint64_t{data[i]} << (8 * i);
  if (8 + header_bytes + data_bytes != size) std::abort();
  return 0;
}
