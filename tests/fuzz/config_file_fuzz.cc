// Feeds arbitrary configuration files to the daemon's options. What is accepted must keep to the
// bounds of the table; what is not must say so by an error of the parser, and nothing else.
#include <CLI/CLI.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <sstream>
#include <string>

#include "server/config/server_config.h"

namespace {

// The options and what they are read into; made once, since that takes longer than a file.
struct Options {
  Options() { AddOptions(app, config); }

  mnemosyne::server::ServerConfig config;
  CLI::App app;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* const options = new Options();
  auto& config = options->config;
  config = {};
  options->app.clear();
  std::istringstream file(std::string(reinterpret_cast<const char*>(data), size));
  try {
    options->app.parse_from_stream(file);
  } catch (const CLI::ParseError&) {
    return 0;
  }
  if (config.sessions_max < 1 || config.sessions_max > 1'000'000) std::abort();
  if (config.message_max < 64 << 10 || config.message_max > 64 << 20) std::abort();
  if (config.memory_max < 0 || config.cell_elements < 256) std::abort();
  if (config.log_format != "text" && config.log_format != "json") std::abort();
  if (CompleteConfig(config).ok() && config.wire_memory_max < 64 << 20) std::abort();
  return 0;
}
