// Changes to JSON that leave it JSON, so that what reads it is reached behind the parser.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace mnemosyne::fuzz {

class JsonMutator {
 public:
  explicit JsonMutator(unsigned seed) : random_(seed) {}

  // Changes a text in place and returns its new size, at most `max_size`: one to three values of
  // the JSON that it is. A text that is no JSON, and one in four, is changed byte by byte.
  size_t Mutate(uint8_t* data, size_t size, size_t max_size) {
    auto json = nlohmann::json::parse(data, data + size, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded() || Below(4) == 0) return LLVMFuzzerMutate(data, size, max_size);
    for (size_t changes = 1 + Below(3); changes > 0; --changes) Change(json);
    const std::string text = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (text.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
    std::memcpy(data, text.data(), text.size());
    return text.size();
  }

 private:
  using Json = nlohmann::json;

  size_t Below(size_t bound) { return bound == 0 ? 0 : random_() % bound; }

  static void Collect(Json& json, std::vector<Json*>& places) {
    places.push_back(&json);
    if (!json.is_structured()) return;
    for (auto& child : json) Collect(child, places);
  }

  void Change(Json& json) {
    std::vector<Json*> places;
    Collect(json, places);
    Json& place = *places[Below(places.size())];
    const Json& other = *places[Below(places.size())];
    switch (Below(6)) {
      case 0:
        place = Json(other);
        break;
      case 1:
        if (!place.is_structured() || place.empty()) return ChangeValue(place);
        place.erase(std::next(place.begin(), static_cast<std::ptrdiff_t>(Below(place.size()))));
        break;
      case 2:
        if (place.is_object()) place["x"] = Json(other);
        if (place.is_array()) place.push_back(Json(other));
        break;
      default:
        ChangeValue(place);
    }
  }

  void ChangeValue(Json& place) {
    static const std::array<Json, 16> kValues = {
        0, 1, 2, 3, 7, 64, 65, -1, 1e9, 1e300, -0.5, 0.25, "", true, nullptr, Json::array({1, 2}),
    };
    if (place.is_number_integer() && Below(2) == 0) {
      // Unsigned, so that it wraps.
      place = static_cast<int64_t>(static_cast<uint64_t>(place.get<int64_t>()) + Below(5) - 2);
    } else if (place.is_number_float() && Below(2) == 0) {
      place = place.get<double>() * (static_cast<double>(Below(9)) / 4 - 1);
    } else {
      place = kValues[Below(kValues.size())];
    }
  }

  std::minstd_rand random_;
};

}  // namespace mnemosyne::fuzz
