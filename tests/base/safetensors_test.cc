#include "base/safetensors.h"

#include <cstdlib>
#include <fstream>
#include <random>

#include "base/sha256.h"
#include "tests/testing/safetensors_file.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne {
namespace {

using ::testing::ElementsAre;
using testing::IsError;
using ::testing::Pair;
using testing::SafetensorsFile;

constexpr char kGoodHeader[] = R"({"__metadata__":{"format":"x","":"ü"},)"
                               R"("a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
                               R"("b":{"data_offsets":[8,10],"shape":[],"dtype":"BF16"},)"
                               R"("none":{"dtype":"I64","shape":[3,0],"data_offsets":[10,10]}}  )";

std::string GoodData() {
  const float values[] = {1.5F, -2};
  return std::string(reinterpret_cast<const char*>(values), sizeof(values)) + "hi";
}

TEST(SafetensorsTest, ReadsTensorsAndMetadata) {
  const auto file = Safetensors::Parse(SafetensorsFile(kGoodHeader, GoodData()));

  ASSERT_OK(file);
  EXPECT_THAT(file->metadata(), ElementsAre(Pair("", "ü"), Pair("format", "x")));
  ASSERT_EQ(file->tensors().size(), 3U);
  const SafetensorsTensor& a = file->tensors()[0];
  EXPECT_EQ(a.name, "a");
  EXPECT_THAT(a.shape, ElementsAre(2, 1));
  EXPECT_THAT(*file->Floats(a), ElementsAre(1.5F, -2));
  EXPECT_EQ(file->Find("b")->element_count, 1U);
  EXPECT_EQ(file->Data(*file->Find("b"))[0], std::byte{'h'});
  EXPECT_EQ(file->Find("none")->byte_count, 0U);
  EXPECT_EQ(file->Find("c"), nullptr);
}

TEST(SafetensorsTest, HashesTheWholeFile) {
  const auto bytes = SafetensorsFile(kGoodHeader, GoodData());

  EXPECT_EQ(Safetensors::Parse(bytes)->hash(), Sha256Hex(bytes));
}

TEST(SafetensorsTest, ReadsAFileOfNothing) {
  const auto file = Safetensors::Parse(SafetensorsFile("{}", ""));

  ASSERT_OK(file);
  EXPECT_TRUE(file->tensors().empty());
}

TEST(SafetensorsTest, GivesFloatsOfFloat32Alone) {
  const auto file = Safetensors::Parse(SafetensorsFile(kGoodHeader, GoodData()));

  EXPECT_THAT(
      file->Floats(*file->Find("b")),
      IsError(absl::StatusCode::kInvalidArgument, "wrong type: tensor 'b' is BF16, expected F32"));
}

struct BadFile {
  const char* header;
  const char* data;
  const char* message;
};

TEST(SafetensorsTest, RefusesAWrongHeaderAndSaysWhy) {
  const BadFile files[] = {
      {"", "", "does not begin with '{'"},
      {" {}", "", "does not begin with '{'"},
      {"\xEF\xBB\xBF{}", "", "does not begin with '{'"},
      {"[]", "", "does not begin with '{'"},
      {"{", "", "is not JSON"},
      {"{} {}", "", "is not JSON"},
      {"{\"a\":}", "", "is not JSON"},
      {"{\"\xC3\":1}", "", "is not UTF-8"},
      {"{\"__metadata__\":{\"a\":\"\xED\xA0\x80\"}}", "", "is not UTF-8"},
      {"{\"a\":1}", "", "'a': a number is out of place"},
      {"{\"a\":null}", "", "'a': null is out of place"},
      {"{\"a\":[]}", "", "'a': a list is out of place"},
      {"{\"__metadata__\":\"x\"}", "", "'__metadata__': a text is out of place"},
      {"{\"__metadata__\":{\"x\":1}}", "", "metadata 'x': a number is out of place"},
      {"{\"__metadata__\":{\"x\":{}}}", "", "metadata 'x': an object is out of place"},
      {"{\"__metadata__\":{\"x\":\"1\",\"x\":\"2\"}}", "", "repeated key of the metadata: 'x'"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", "", "repeated name: '__metadata__'"},
      {"{\"\":{}}", "", "a tensor has an empty name"},
      {"{\"a\":{}}", "", "tensor 'a' lacks dtype, shape"},
      {R"({"a":{"dtype":"F32","shape":[]}})", "", "tensor 'a' lacks dtype, shape"},
      {R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0]}})", "", "tensor 'a' lacks"},
      {R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4,4]}})", "1234", "tensor 'a' lacks"},
      {R"({"a":{"dtype":"F31","shape":[],"data_offsets":[0,4]}})", "1234",
       "tensor 'a' has the unknown type 'F31'"},
      {R"({"a":{"dtype":["F32"]}})", "", "tensor 'a', dtype: a list is out of place"},
      {R"({"a":{"dtype":1}})", "", "tensor 'a', dtype: a number is out of place"},
      {R"({"a":{"shape":"4"}})", "", "tensor 'a', shape: a text is out of place"},
      {R"({"a":{"shape":[[4]]}})", "", "tensor 'a', shape: a list is out of place"},
      {R"({"a":{"shape":[-1]}})", "", "tensor 'a', shape: -1 is not a size"},
      {R"({"a":{"shape":[1.5]}})", "", "tensor 'a', shape: a number is not a size"},
      {R"({"a":{"shape":[18446744073709551616]}})", "", "a number is not a size of at most 64"},
      {R"({"a":{"shape":[true]}})", "", "a boolean is out of place"},
      {R"({"a":{"shape":[1,1,1,1,1,1,1,1,1]}})", "", "more than 8 numbers"},
      {R"({"a":{"strides":[1]}})", "", "tensor 'a': unknown or repeated field 'strides'"},
      {R"({"a":{"shape":[1],"shape":[1]}})", "", "unknown or repeated field 'shape'"},
      {R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},)"
       R"("a":{"dtype":"U8","shape":[],"data_offsets":[1,2]}})",
       "12", "repeated name: 'a'"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", "",
       "the shape of tensor 'a' overflows"},
      {R"({"a":{"dtype":"U8","shape":[0,18446744073709551615],"data_offsets":[0,0]}})", "",
       "the shape of tensor 'a' overflows"},
      {R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", "",
       "the shape of tensor 'a' overflows"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "1234",
       "the data of tensor 'a' are from 0 to 4, its shape has 8 bytes"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551615]}})", "1",
       "its shape has 1 bytes"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "123",
       "truncated: the data of tensor 'a' end at 4, the file has 3"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "12345",
       "too long: the tensors"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", "123",
       "the data of tensor 'a' start at 1, expected 0: there is a gap"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
       R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
       "123", "the data of tensor 'b' start at 1, expected 2: they overlap"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]},)"
       R"("b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
       "1234", "there is a gap, or tensors are not sorted"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("b":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,0]}})",
       "12", "the data of tensor 'b' start at 18446744073709551615"},
  };
  for (const BadFile& file : files) {
    EXPECT_THAT(Safetensors::Parse(SafetensorsFile(file.header, file.data)),
                IsError(absl::StatusCode::kDataLoss, file.message))
        << file.header;
  }
}

TEST(SafetensorsTest, RefusesAHeaderThatNestsDeeply) {
  const std::string nest(200'000, '[');
  EXPECT_THAT(Safetensors::Parse(SafetensorsFile("{\"a\":" + nest, "")),
              IsError(absl::StatusCode::kDataLoss, "'a': a list is out of place"));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_THAT(Safetensors::Parse(SafetensorsFile(objects, "")),
              IsError(absl::StatusCode::kDataLoss, "unknown or repeated field 'a'"));
}

TEST(SafetensorsTest, RefusesWhatHidesBehindANul) {
  EXPECT_THAT(Safetensors::Parse(SafetensorsFile(std::string_view("{}\0{\"a\"", 7), "")),
              IsError(absl::StatusCode::kDataLoss, "it holds a NUL"));
}

TEST(SafetensorsTest, RefusesALongName) {
  EXPECT_THAT(Safetensors::Parse(SafetensorsFile("{\"" + std::string(257, 'x') + "\":{}}", "")),
              IsError(absl::StatusCode::kDataLoss, "a name has 257 bytes, the most is 256"));
}

TEST(SafetensorsTest, RefusesALengthThatTheFileDoesNotHave) {
  for (size_t size = 0; size < 8; ++size) {
    EXPECT_THAT(Safetensors::Parse(std::vector<std::byte>(size)),
                IsError(absl::StatusCode::kDataLoss, "truncated: the file has"));
  }
  std::vector<std::byte> file = SafetensorsFile("{}", "");
  file[0] = std::byte{3};
  EXPECT_THAT(Safetensors::Parse(file),
              IsError(absl::StatusCode::kDataLoss, "truncated: the header has 3 bytes"));
  for (const size_t high : {2U, 5U, 7U}) {
    file[high] = std::byte{0xFF};
    EXPECT_THAT(Safetensors::Parse(file), IsError(absl::StatusCode::kDataLoss, "header too large"));
  }
}

// Cut anywhere, or with any byte damaged, a file is refused or read; it never crashes.
TEST(SafetensorsTest, SurvivesDamage) {
  const std::vector<std::byte> good = SafetensorsFile(kGoodHeader, GoodData());
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_THAT(Safetensors::Parse({good.begin(), good.begin() + static_cast<ptrdiff_t>(size)}),
                IsError(absl::StatusCode::kDataLoss, ""));
  }
  std::mt19937 random(1);
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::byte> damaged = good;
    for (uint32_t i = 0; i <= random() % 3; ++i) {
      damaged[random() % damaged.size()] = static_cast<std::byte>(random());
    }
    const auto file = Safetensors::Parse(std::move(damaged));
    if (!file.ok()) continue;
    for (const SafetensorsTensor& tensor : file->tensors()) {
      EXPECT_EQ(file->Data(tensor).size(), tensor.byte_count);
    }
  }
}

class SafetensorsFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/safetensorsXXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path Write(const std::vector<std::byte>& bytes) {
    const std::filesystem::path path = folder_ / "x.safetensors";
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    return path;
  }

  std::filesystem::path folder_;
};

TEST_F(SafetensorsFileTest, ReadsAFile) {
  const auto file = Safetensors::Read(Write(SafetensorsFile(kGoodHeader, GoodData())), 1000);

  ASSERT_OK(file);
  EXPECT_EQ(file->tensors().size(), 3U);
}

TEST_F(SafetensorsFileTest, RefusesWhatIsNoFileOrTooLarge) {
  EXPECT_THAT(Safetensors::Read(folder_ / "y", 1000),
              IsError(absl::StatusCode::kNotFound, "no such file"));
  EXPECT_THAT(Safetensors::Read(folder_, 1000),
              IsError(absl::StatusCode::kNotFound, "no such file"));
  EXPECT_THAT(Safetensors::Read(Write(SafetensorsFile("{}", "")), 9),
              IsError(absl::StatusCode::kResourceExhausted, "the file has 10 bytes"));
}

}  // namespace
}  // namespace mnemosyne
