#include "model.hpp"

#include <cmath>
#include <cstring>
#include <set>
#include <stdexcept>
#include <utility>

#include "checksum.hpp"

namespace fastpart {
namespace model_detail {

constexpr char     kMagic[]     = "FASTPART";
constexpr size_t   kMagicSize   = 8;
constexpr uint32_t kVersion     = 6;
constexpr size_t   kHeaderSize  = kMagicSize + 4 + 8;
constexpr size_t   kTrailerSize = 4;
constexpr uint32_t kMaxKnots    = 64;
constexpr size_t   kNodeSize    = 8 + 2 + 1 + 1 + 4 + 4;

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error("model file: " + what); }

// Takes values off the front of a byte range and never reads past its end.
class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : data_(data), left_(size) {}

  size_t left() const { return left_; }

  const uint8_t* take(size_t size, const std::string& what)
  {
    if (size > left_)
      fail(what + ": " + std::to_string(left_) + " bytes left, wanted " + std::to_string(size));
    const uint8_t* at = data_;
    data_ += size;
    left_ -= size;
    return at;
  }

  uint64_t unsigned_integer(size_t size, const std::string& what)
  {
    const uint8_t* bytes = take(size, what);
    uint64_t       value = 0;
    for (size_t i = 0; i < size; i++) value |= uint64_t(bytes[i]) << (8 * i);
    return value;
  }

  uint8_t  u8(const std::string& what) { return uint8_t(unsigned_integer(1, what)); }
  uint16_t u16(const std::string& what) { return uint16_t(unsigned_integer(2, what)); }
  uint32_t u32(const std::string& what) { return uint32_t(unsigned_integer(4, what)); }
  uint64_t u64(const std::string& what) { return unsigned_integer(8, what); }
  int32_t  i32(const std::string& what) { return int32_t(u32(what)); }

  float f32(const std::string& what)
  {
    const uint32_t bits = u32(what);
    float          value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

  double f64(const std::string& what)
  {
    const uint64_t bits = u64(what);
    double         value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

  float finite_f32(const std::string& what)
  {
    const float value = f32(what);
    if (!std::isfinite(value)) fail(what + ": not finite, wanted a finite number");
    return value;
  }

  std::string text(size_t size, const std::string& what)
  {
    const uint8_t* at = take(size, what);
    return std::string(at, at + size);
  }

  // A count of things that take at least `each` bytes, from `least` to `most`.
  uint32_t count(uint32_t least, uint32_t most, size_t each, const std::string& what)
  {
    const uint32_t value = u32(what);
    if (value < least || value > most)
      fail(what + ": " + std::to_string(value) + ", wanted " + std::to_string(least) + " to " + std::to_string(most));
    if (value > left_ / each)
      fail(what + ": " + std::to_string(value) + ", but " + std::to_string(left_) + " bytes left hold at most " +
           std::to_string(left_ / each));
    return value;
  }

 private:
  const uint8_t* data_;
  size_t         left_;
};

std::vector<std::string> read_features(Reader& reader)
{
  std::vector<std::string> names(reader.count(1, kMaxFeatures, 2, "number of features"));
  std::set<std::string>    seen;
  for (std::string& name : names)
  {
    name = reader.text(reader.u16("length of a feature name"), "feature name");
    if (name.empty() || !seen.insert(name).second) fail("feature name '" + name + "' is empty or appears twice");
  }
  return names;
}

PolicyTables read_tables(Reader& reader)
{
  PolicyTables   tables;
  const uint32_t knots = reader.count(1, kMaxKnots, 8, "number of QP knots");
  for (uint32_t i = 0; i < knots; i++) tables.qp_knots.push_back(reader.finite_f32("QP knot"));
  for (uint32_t i = 0; i < knots; i++) tables.log_kappa.push_back(reader.finite_f32("log_kappa"));
  for (float& weight : tables.log_layer_weight) weight = reader.finite_f32("log_layer_weight");
  for (uint32_t i = 1; i < knots; i++)
    if (!(tables.qp_knots[i - 1] < tables.qp_knots[i]))
      fail("QP knot " + std::to_string(tables.qp_knots[i]) + " after " + std::to_string(tables.qp_knots[i - 1]) +
           ", wanted ascending knots");
  static_assert(sizeof(SteeringTables) == 40 * sizeof(float), "SteeringTables are floats alone");
  tables.has_steering = reader.count(0, 1, sizeof(SteeringTables), "number of steering tables") != 0;
  if (tables.has_steering)
  {
    float values[sizeof(SteeringTables) / sizeof(float)];
    for (float& value : values) value = reader.finite_f32("steering table");
    std::memcpy(&tables.steering, values, sizeof values);
    const SteeringTables& steering = tables.steering;
    for (const float value : {steering.split_scale[0], steering.split_scale[1], steering.split_scale_controls[0],
                              steering.split_scale_controls[1], steering.saved_scale[0], steering.saved_scale[1],
                              steering.logit_slope})
      if (!(value > 0)) fail("scale, slope or controls of the steering " + std::to_string(value) + ", wanted more than 0");
  }
  return tables;
}

Tree read_tree(Reader& reader, const std::string& what)
{
  Tree           tree;
  const uint32_t nodes = reader.count(0, kMaxLeaves - 1, kNodeSize + 8, what + ": number of nodes");
  tree.nodes.resize(nodes);
  for (TreeNode& node : tree.nodes)
  {
    node.threshold                 = reader.f64(what);
    node.feature                   = reader.u16(what);
    const unsigned    missing      = reader.u8(what);
    const unsigned    default_left = reader.u8(what);
    if (missing > unsigned(Missing::NaN) || default_left > 1)
      fail(what + ": missing type " + std::to_string(missing) + ", default left " + std::to_string(default_left) +
           ", wanted at most 2 and 1");
    node.missing      = Missing(missing);
    node.default_left = default_left != 0;
    node.left         = reader.i32(what);
    node.right        = reader.i32(what);
  }
  tree.leaves.resize(size_t(nodes) + 1);
  for (double& leaf : tree.leaves) leaf = reader.f64(what);
  return tree;
}

std::vector<Tree> read_forest(Reader& reader, const std::string& what, int features)
{
  std::vector<Tree> trees(reader.count(0, UINT32_MAX, 4 + 8, what + ": number of trees"));
  for (size_t i = 0; i < trees.size(); i++)
  {
    const std::string tree = what + ", tree " + std::to_string(i);
    trees[i] = read_tree(reader, tree);
    try
    {
      check_tree(trees[i], features);
    }
    catch (const std::runtime_error& error)
    {
      fail(tree + ", " + error.what());
    }
  }
  return trees;
}

Model read_payload(Reader& reader)
{
  Model model;
  model.metadata = reader.text(reader.u32("length of metadata"), "metadata");
  model.features = read_features(reader);
  model.tables   = read_tables(reader);
  reader.count(kGroups, kGroups, 4 + 4, "number of groups");
  for (int group = 0; group < kGroups; group++)
  {
    const std::string name     = kGroupNames[group];
    const int         features = int(model.features.size());
    std::vector<Tree> loss     = read_forest(reader, name + " loss", features);
    std::vector<Tree> time     = read_forest(reader, name + " time", features);
    if (loss.empty() != time.empty())
      fail(name + ": " + std::to_string(loss.size()) + " loss and " + std::to_string(time.size()) +
           " time trees, wanted some of both or none");
    model.groups[group] = GroupModel(std::move(loss), std::move(time));
  }
  if (reader.left() != 0) fail(std::to_string(reader.left()) + " bytes after the last group, wanted none");
  return model;
}

Model read_file(const uint8_t* data, size_t size)
{
  Reader file(data, size);
  if (std::memcmp(file.take(kMagicSize, "magic"), kMagic, kMagicSize) != 0)
    fail("no magic number, wanted a file that begins with FASTPART");
  const uint32_t version = file.u32("format version");
  if (version != kVersion)
    fail("format version " + std::to_string(version) + ", wanted " + std::to_string(kVersion));
  const uint64_t payload = file.u64("payload size");
  if (file.left() < kTrailerSize || payload != file.left() - kTrailerSize)
    fail("payload of " + std::to_string(payload) + " bytes announced in a file of " + std::to_string(size) +
         " bytes, wanted a file " + std::to_string(kHeaderSize + kTrailerSize) + " bytes larger than its payload");

  Reader         reader(file.take(size_t(payload), "payload"), size_t(payload));
  const uint32_t computed = crc32(data, size - kTrailerSize);
  const uint32_t stored   = file.u32("checksum");
  if (computed != stored)
    fail("checksum " + std::to_string(computed) + ", wanted the stored " + std::to_string(stored) +
         ": the file is damaged");

  Model model    = read_payload(reader);
  model.checksum = stored;
  return model;
}

}  // namespace model_detail

Model Model::parse(const uint8_t* data, size_t size) { return model_detail::read_file(data, size); }

}  // namespace fastpart
