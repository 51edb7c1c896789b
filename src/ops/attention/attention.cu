// Attention in tiles of 16 queries by 16 keys; the T × S scores are never all there. See mod.rs for what is rounded.
//
// q, y, dy, dq: sequences × queries × heads × width; k, v, dk, dv: sequences × keys × kv_heads × width; logs, along: sequences ×
// heads × queries. Blocks of 256 threads, of which thread r 16 + c has score (r, c) of a tile; any number of blocks. Lengths are at
// most the number of keys; without any, all keys are there.
#include "common.cuh"

constexpr u32 TILE = 16;
constexpr u32 MOST_WIDTH = 128;
// One more, so that rows start in different banks of the shared memory.
constexpr u32 PITCH = MOST_WIDTH + 1;
// Values of a row of results that a thread sums.
constexpr u32 COLUMNS = MOST_WIDTH / TILE;

// Which probabilities are dropped; #[repr(C)] in cuda.rs. All are kept without a pass, whose number is read here so that a recorded step
// sees it.
struct Dropout {
    const u32* pass;
    u64 from;
    u64 seed;
    u32 stream;
    float scale;

    // What the probability of a place is multiplied by: as dropout of a tensor of all probabilities, value i takes word i mod 4 of
    // Philox block i / 4, and is kept where that is at least `from`.
    __device__ float factor(u64 place) const {
        if (!pass) {
            return 1.0f;
        }
        return philox4x32(place / 4, *pass, stream, seed).word[place % 4] >= from ? scale : 0.0f;
    }
};

// #[repr(C)] in cuda.rs.
struct Shape {
    u32 sequences;
    u32 queries;
    u32 keys;
    u32 heads;
    u32 kv_heads;
    u32 width;
    u32 causal;
    float scale;
    Rounder rounder;
    Dropout dropout;

    // What dropout multiplies the probability of a query and a key by.
    __device__ float factor(u32 sequence, u32 head, u32 query, u32 key) const {
        return dropout.factor((((u64)sequence * heads + head) * queries + query) * keys + key);
    }

    // How many keys a query sees: always the first ones.
    __device__ u32 visible(u32 query, u32 length) const {
        const u32 before = query + 1 + keys > queries ? query + 1 + keys - queries : 0;
        return causal && before < length ? before : length;
    }

    __device__ u32 length(const u32* lengths, u32 sequence) const {
        return lengths ? lengths[sequence] : keys;
    }

    // A value as an operand of a product.
    template <class T>
    __device__ float operand(float value) const {
        return widen(narrow<T>(rounder.round(value)));
    }
};

// A tile of rows of a tensor, in f32; rows that it does not have are 0.
typedef float Rows[TILE][PITCH];
typedef float Square[TILE][TILE + 1];

// `count` rows of a head, from `row` on, as operands: rounded, which changes TF32 alone.
template <class T>
__device__ void load(Rows& to, const T* from, u64 row, u32 head, u32 heads, u32 count, const Shape& shape) {
    for (u32 i = threadIdx.x; i < TILE * shape.width; i += blockDim.x) {
        const u32 at = i / shape.width;
        const u32 column = i % shape.width;
        const u64 place = ((row + at) * heads + head) * shape.width + column;
        to[at][column] = at < count ? shape.operand<T>(widen(from[place])) : 0.0f;
    }
}

__device__ inline float dot(const float* a, const float* b, u32 width) {
    float sum = 0.0f;
    for (u32 i = 0; i < width; ++i) {
        sum += a[i] * b[i];
    }
    return sum;
}

__device__ inline u32 smaller(u32 a, u32 b) { return a < b ? a : b; }

// Of `all`, those from `start` on, at most a tile.
__device__ inline u32 in_tile(u32 all, u32 start) { return all > start ? smaller(all - start, TILE) : 0; }

template <class T>
__device__ void attention(
    const T* q, const T* k, const T* v, const u32* lengths, T* y, float* logs, const Shape& shape) {
    __shared__ Rows queries, keys, values;
    __shared__ Square scores, operands;
    __shared__ float largest[TILE], total[TILE], factor[TILE];
    const u32 row = threadIdx.x / TILE;
    const u32 column = threadIdx.x % TILE;
    const u32 tiles = (shape.queries + TILE - 1) / TILE;
    for (u64 task = blockIdx.x; task < (u64)shape.sequences * shape.heads * tiles; task += gridDim.x) {
        const u32 first = (u32)(task % tiles) * TILE;
        const u32 head = (u32)(task / tiles % shape.heads);
        const u32 sequence = (u32)(task / tiles / shape.heads);
        const u32 kv_head = head / (shape.heads / shape.kv_heads);
        const u32 count = in_tile(shape.queries, first);
        const u32 length = shape.length(lengths, sequence);
        const u32 visible = row < count ? shape.visible(first + row, length) : 0;
        const u32 end = shape.visible(first + count - 1, length);
        __syncthreads();
        load(queries, q, (u64)sequence * shape.queries + first, head, shape.heads, count, shape);
        if (column == 0) {
            largest[row] = -infinity();
            total[row] = 0.0f;
        }
        float results[COLUMNS] = {};
        for (u32 start = 0; start < end; start += TILE) {
            const u64 from = (u64)sequence * shape.keys + start;
            __syncthreads();
            load(keys, k, from, kv_head, shape.kv_heads, in_tile(length, start), shape);
            load(values, v, from, kv_head, shape.kv_heads, in_tile(length, start), shape);
            __syncthreads();
            const u32 seen = in_tile(visible, start);
            const float score = dot(queries[row], keys[column], shape.width) * shape.scale;
            scores[row][column] = score;
            __syncthreads();
            if (column == 0) {
                const float before = largest[row];
                float most = before;
                for (u32 i = 0; i < seen; ++i) {
                    most = scores[row][i] > most ? scores[row][i] : most;
                }
                factor[row] = most == -infinity() ? 1.0f : expf(before - most);
                largest[row] = most;
            }
            __syncthreads();
            const float exponential = column < seen ? expf(score - largest[row]) : 0.0f;
            scores[row][column] = exponential;
            const bool kept = column < seen && shape.factor(sequence, head, first + row, start + column) != 0.0f;
            operands[row][column] = shape.operand<T>(kept ? exponential : 0.0f);
            __syncthreads();
            if (column == 0) {
                float sum = total[row] * factor[row];
                for (u32 i = 0; i < seen; ++i) {
                    sum += scores[row][i];
                }
                total[row] = sum;
            }
            for (u32 i = 0; i < COLUMNS && column + i * TILE < shape.width; ++i) {
                float product = 0.0f;
                for (u32 key = 0; key < seen; ++key) {
                    product += operands[row][key] * values[key][column + i * TILE];
                }
                results[i] = results[i] * factor[row] + product;
            }
        }
        __syncthreads();
        if (row < count) {
            // A query that sees a key has a sum of at least 1, or NaN.
            const float sum = total[row];
            const u64 to = ((u64)sequence * shape.queries + first + row) * shape.heads + head;
            for (u32 i = 0; i < COLUMNS && column + i * TILE < shape.width; ++i) {
                y[to * shape.width + column + i * TILE] = 
                    narrow<T>(sum == 0.0f ? 0.0f : results[i] / sum * shape.dropout.scale);
            }
            if (column == 0) {
                const u64 at = ((u64)sequence * shape.heads + head) * shape.queries + first + row;
                logs[at] = sum == 0.0f ? -infinity() : largest[row] + logf(sum);
            }
        }
    }
}

// y: dropout(softmax(q kᵀ scale)) v; logs: the logarithms of the sums of the exponentials of scores.
#define ATTENTION(suffix, T)                                                                       \
    extern "C" __global__ void __launch_bounds__(256) attention_##suffix(                          \
        const T* q, const T* k, const T* v, const u32* lengths, T* y, float* logs, Shape shape) {  \
        attention(q, k, v, lengths, y, logs, shape);                                               \
    }
FOR_EACH_STORAGE(ATTENTION)

// What the passes over a tile of scores share.
struct TileGradient {
    // As an operand, 0 where it is dropped.
    float probability;
    // With respect to the score.
    float gradient;
};

// Of the score of a query and a key that it sees, whose probability dropout multiplies by `factor`.
__device__ inline TileGradient tile_gradient(
    const float* query, const float* key, const float* dy, const float* value, float log, float along, float factor,
    const Shape& shape) {
    const float score = dot(query, key, shape.width) * shape.scale;
    const float probability = expf(score - log);
    const bool kept = factor != 0.0f;
    const float product = kept ? dot(dy, value, shape.width) * factor : 0.0f;
    return {kept ? probability : 0.0f, probability * (product - along)};
}

template <class T>
__device__ void attention_backward_queries(
    const T* q, const T* k, const T* v, const T* dy, const T* y, const u32* lengths, const float* logs, float* along,
    T* dq, const Shape& shape) {
    __shared__ Rows queries, gradients, keys, values;
    __shared__ Square operands;
    __shared__ float sums[TILE];
    const u32 row = threadIdx.x / TILE;
    const u32 column = threadIdx.x % TILE;
    const u32 tiles = (shape.queries + TILE - 1) / TILE;
    for (u64 task = blockIdx.x; task < (u64)shape.sequences * shape.heads * tiles; task += gridDim.x) {
        const u32 first = (u32)(task % tiles) * TILE;
        const u32 head = (u32)(task / tiles % shape.heads);
        const u32 sequence = (u32)(task / tiles / shape.heads);
        const u32 kv_head = head / (shape.heads / shape.kv_heads);
        const u32 count = in_tile(shape.queries, first);
        const u32 length = shape.length(lengths, sequence);
        const u32 visible = row < count ? shape.visible(first + row, length) : 0;
        const u32 end = shape.visible(first + count - 1, length);
        const u64 from = (u64)sequence * shape.queries + first;
        const u64 at = ((u64)sequence * shape.heads + head) * shape.queries + first + row;
        __syncthreads();
        load(queries, q, from, head, shape.heads, count, shape);
        load(gradients, dy, from, head, shape.heads, count, shape);
        __syncthreads();
        if (column == 0 && row < count) {
            const u64 place = ((from + row) * shape.heads + head) * shape.width;
            float sum = 0.0f;
            for (u32 i = 0; i < shape.width; ++i) {
                sum += widen(dy[place + i]) * widen(y[place + i]);
            }
            sums[row] = sum;
            along[at] = sum;
        }
        float results[COLUMNS] = {};
        for (u32 start = 0; start < end; start += TILE) {
            const u64 rows = (u64)sequence * shape.keys + start;
            __syncthreads();
            load(keys, k, rows, kv_head, shape.kv_heads, in_tile(length, start), shape);
            load(values, v, rows, kv_head, shape.kv_heads, in_tile(length, start), shape);
            __syncthreads();
            const u32 seen = in_tile(visible, start);
            float gradient = 0.0f;
            if (column < seen) {
                const float factor = shape.factor(sequence, head, first + row, start + column);
                gradient = tile_gradient(
                    queries[row], keys[column], gradients[row], values[column], logs[at], sums[row], factor, shape).gradient;
            }
            operands[row][column] = shape.operand<T>(gradient);
            __syncthreads();
            for (u32 i = 0; i < COLUMNS && column + i * TILE < shape.width; ++i) {
                float product = 0.0f;
                for (u32 key = 0; key < seen; ++key) {
                    product += operands[row][key] * keys[key][column + i * TILE];
                }
                results[i] += product;
            }
        }
        if (row < count) {
            const u64 to = (from + row) * shape.heads + head;
            for (u32 i = 0; i < COLUMNS && column + i * TILE < shape.width; ++i) {
                dq[to * shape.width + column + i * TILE] = narrow<T>(results[i] * shape.scale);
            }
        }
    }
}

// dq, and along = Σ dy y of each query and head, which attention_backward_keys reads.
#define ATTENTION_BACKWARD_QUERIES(suffix, T)                                                      \
    extern "C" __global__ void __launch_bounds__(256) attention_backward_queries_##suffix(         \
        const T* q, const T* k, const T* v, const T* dy, const T* y, const u32* lengths,           \
        const float* logs, float* along, T* dq, Shape shape) {                                     \
        attention_backward_queries(q, k, v, dy, y, lengths, logs, along, dq, shape);               \
    }
FOR_EACH_STORAGE(ATTENTION_BACKWARD_QUERIES)

// The first query that may see a key of a tile that starts at `start`, at the start of a tile.
__device__ inline u32 first_tile(u32 start, const Shape& shape) {
    const u32 all = start + shape.queries;
    return shape.causal && all > shape.keys ? (all - shape.keys) / TILE * TILE : 0;
}

template <class T>
__device__ void attention_backward_keys(
    const T* q, const T* k, const T* v, const T* dy, const u32* lengths, const float* logs, const float* along, T* dk,
    T* dv, const Shape& shape) {
    __shared__ Rows queries, gradients, keys, values;
    // Of key and query.
    __shared__ Square probabilities, operands;
    const u32 row = threadIdx.x / TILE;
    const u32 column = threadIdx.x % TILE;
    const u32 tiles = (shape.keys + TILE - 1) / TILE;
    const u32 group = shape.heads / shape.kv_heads;
    for (u64 task = blockIdx.x; task < (u64)shape.sequences * shape.kv_heads * tiles; task += gridDim.x) {
        const u32 start = (u32)(task % tiles) * TILE;
        const u32 kv_head = (u32)(task / tiles % shape.kv_heads);
        const u32 sequence = (u32)(task / tiles / shape.kv_heads);
        const u32 length = shape.length(lengths, sequence);
        const u64 rows = (u64)sequence * shape.keys + start;
        const u32 there = in_tile(length, start);
        __syncthreads();
        load(keys, k, rows, kv_head, shape.kv_heads, there, shape);
        load(values, v, rows, kv_head, shape.kv_heads, there, shape);
        float key_sums[COLUMNS] = {};
        float value_sums[COLUMNS] = {};
        for (u32 head = kv_head * group; there > 0 && head < (kv_head + 1) * group; ++head) {
            for (u32 first = first_tile(start, shape); first < shape.queries; first += TILE) {
                const u64 from = (u64)sequence * shape.queries + first;
                const u32 count = in_tile(shape.queries, first);
                __syncthreads();
                load(queries, q, from, head, shape.heads, count, shape);
                load(gradients, dy, from, head, shape.heads, count, shape);
                __syncthreads();
                TileGradient tile = {0.0f, 0.0f};
                if (column < count && start + row < shape.visible(first + column, length)) {
                    const u64 at = ((u64)sequence * shape.heads + head) * shape.queries + first + column;
                    const float factor = shape.factor(sequence, head, first + column, start + row);
                    tile = tile_gradient(
                        queries[column], keys[row], gradients[column], values[row], logs[at], along[at], factor, shape);
                }
                probabilities[row][column] = shape.operand<T>(tile.probability);
                operands[row][column] = shape.operand<T>(tile.gradient);
                __syncthreads();
                for (u32 i = 0; i < COLUMNS && column + i * TILE < shape.width; ++i) {
                    float of_values = 0.0f;
                    float of_keys = 0.0f;
                    for (u32 query = 0; query < count; ++query) {
                        of_values += probabilities[row][query] * gradients[query][column + i * TILE];
                        of_keys += operands[row][query] * queries[query][column + i * TILE];
                    }
                    value_sums[i] += of_values;
                    key_sums[i] += of_keys;
                }
            }
        }
        if (row < in_tile(shape.keys, start)) {
            const u64 to = ((rows + row) * shape.kv_heads + kv_head) * shape.width;
            for (u32 i = 0; i < COLUMNS && column + i * TILE < shape.width; ++i) {
                dk[to + column + i * TILE] = narrow<T>(key_sums[i] * shape.scale);
                dv[to + column + i * TILE] = narrow<T>(value_sums[i] * shape.dropout.scale);
            }
        }
    }
}

// dk and dv, from the sums of attention_backward_queries; 0 of keys that nobody sees.
#define ATTENTION_BACKWARD_KEYS(suffix, T)                                                         \
    extern "C" __global__ void __launch_bounds__(256) attention_backward_keys_##suffix(            \
        const T* q, const T* k, const T* v, const T* dy, const u32* lengths, const float* logs,    \
        const float* along, T* dk, T* dv, Shape shape) {                                           \
        attention_backward_keys(q, k, v, dy, lengths, logs, along, dk, dv, shape);                 \
    }
FOR_EACH_STORAGE(ATTENTION_BACKWARD_KEYS)
