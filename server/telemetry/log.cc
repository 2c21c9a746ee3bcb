#include "server/telemetry/log.h"

#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

namespace mnemosyne::server {
namespace {

LogFormat log_format = LogFormat::kText;

bool NeedsQuotes(std::string_view value) {
  return value.empty() || std::ranges::any_of(value, [](unsigned char c) {
           return c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7F;
         });
}

// JSON's quoting keeps control characters out of the log, so that no value can forge a line.
std::string Quoted(std::string_view value) {
  return nlohmann::json(value).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string AsText(std::string_view words, std::initializer_list<LogField> fields) {
  std::string line(words);
  for (const LogField& field : fields) {
    line += fmt::format(" {}={}", field.key,
                        NeedsQuotes(field.value) ? Quoted(field.value) : field.value);
  }
  return line;
}

// The rest of a JSON object whose time and level the pattern writes.
std::string AsJson(std::string_view words, std::initializer_list<LogField> fields) {
  std::string line = "\"message\":" + Quoted(words);
  for (const LogField& field : fields) {
    line += fmt::format(",{}:{}", Quoted(field.key),
                        field.is_number ? field.value : Quoted(field.value));
  }
  return line;
}

}  // namespace

void SetUpLogging(spdlog::level::level_enum level, LogFormat format) {
  log_format = format;
  auto logger = std::make_shared<spdlog::logger>("mnemosyned",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern(format == LogFormat::kJson
                          ? R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l",%v})"
                          : "%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  logger->set_level(level);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

void Log(spdlog::level::level_enum level, std::string_view words,
         std::initializer_list<LogField> fields) {
  if (!spdlog::should_log(level)) return;
  spdlog::log(level, "{}",
              log_format == LogFormat::kJson ? AsJson(words, fields) : AsText(words, fields));
}

}  // namespace mnemosyne::server
