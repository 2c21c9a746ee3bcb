#include "server/telemetry/log.h"

#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <chrono>
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

std::string AsJson(spdlog::level::level_enum level, std::string_view words,
                   std::initializer_list<LogField> fields) {
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  nlohmann::ordered_json object;
  object["time"] = std::chrono::duration<double>(since_epoch).count();
  object["level"] = std::string(spdlog::level::to_string_view(level).data());
  object["message"] = std::string(words);
  for (const LogField& field : fields) object[std::string(field.key)] = field.value;
  return object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

void SetUpLogging(spdlog::level::level_enum level, LogFormat format) {
  log_format = format;
  auto logger = std::make_shared<spdlog::logger>("mnemosyned",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern(format == LogFormat::kJson ? "%v" : "%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  logger->set_level(level);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

void Log(spdlog::level::level_enum level, std::string_view words,
         std::initializer_list<LogField> fields) {
  if (!spdlog::should_log(level)) return;
  spdlog::log(
      level, "{}",
      log_format == LogFormat::kJson ? AsJson(level, words, fields) : AsText(words, fields));
}

}  // namespace mnemosyne::server
