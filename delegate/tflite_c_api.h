/* TFLite's C structs as far as the delegate touches them; build.py gives this text to cffi and to the compiler.

   Field order and types are the ABI of tflite-runtime 2.14 and ai-edge-litert 2.3 (tflite/core/c/common.h), which agree
   in all that is named here; both only ever append. What a struct has behind the last field named is never touched. */

typedef int TfLiteStatus; /* 0 ok, 1 error, 2 delegate error */

typedef struct {
  int size;
  int data[];
} TfLiteIntArray;

typedef struct {
  int size;
  float data[];
} TfLiteFloatArray;

typedef struct {
  TfLiteFloatArray *scale;
  TfLiteIntArray *zero_point;
  int32_t quantized_dimension;
} TfLiteAffineQuantization;

typedef struct TfLiteTensor {
  int type;
  void *data;
  TfLiteIntArray *dims;
  float scale; /* TfLiteQuantizationParams, 0 where the tensor has no scale or several */
  int32_t zero_point;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  struct TfLiteDelegate *delegate;
  int buffer_handle;
  bool data_is_stale;
  bool is_variable;
  int quantization_type; /* TfLiteQuantization */
  void *quantization_params;
  void *sparsity;
  const TfLiteIntArray *dims_signature;
} TfLiteTensor;

typedef struct {
  TfLiteIntArray *inputs;
  TfLiteIntArray *outputs;
  TfLiteIntArray *intermediates;
  TfLiteIntArray *temporaries;
  void *user_data;
  void *builtin_data;
  const void *custom_initial_data;
  int custom_initial_data_size;
  struct TfLiteDelegate *delegate;
} TfLiteNode;

typedef struct TfLiteDelegateParams {
  struct TfLiteDelegate *delegate;
  TfLiteIntArray *nodes_to_replace;
  TfLiteIntArray *input_tensors;
  TfLiteIntArray *output_tensors;
} TfLiteDelegateParams;

struct TfLiteContext;

/* Given to the interpreter by value. Its own struct may have more fields at the end; `reserved` keeps them zero. */
typedef struct TfLiteRegistration {
  void *(*init)(struct TfLiteContext *context, const char *buffer, size_t length);
  void (*free)(struct TfLiteContext *context, void *buffer);
  TfLiteStatus (*prepare)(struct TfLiteContext *context, TfLiteNode *node);
  TfLiteStatus (*invoke)(struct TfLiteContext *context, TfLiteNode *node);
  const char *(*profiling_string)(const struct TfLiteContext *context, const TfLiteNode *node);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *registration_external;
  void *async_kernel;
  uint64_t inplace_operator;
  uint64_t reserved[8];
} TfLiteRegistration;

typedef struct TfLiteContext {
  size_t tensors_size;
  TfLiteStatus (*GetExecutionPlan)(struct TfLiteContext *, TfLiteIntArray **plan);
  TfLiteTensor *tensors;
  void *impl_;
  void *ResizeTensor;
  void (*ReportError)(struct TfLiteContext *, const char *format, ...);
  void *AddTensors;
  TfLiteStatus (*GetNodeAndRegistration)(struct TfLiteContext *, int index, TfLiteNode **, TfLiteRegistration **);
  TfLiteStatus (*ReplaceNodeSubsetsWithDelegateKernels)(struct TfLiteContext *, TfLiteRegistration,
                                                        const TfLiteIntArray *nodes, struct TfLiteDelegate *);
  int recommended_num_threads;
  void *GetExternalContext;
  void *SetExternalContext;
  bool allow_fp32_relax_to_fp16;
  void *profiler;
  void *AllocatePersistentBuffer;
  void *AllocateBufferForEval;
  void *RequestScratchBufferInArena;
  void *GetScratchBuffer;
  void *ResizeTensorExplicit;
  TfLiteStatus (*PreviewDelegatePartitioning)(struct TfLiteContext *, const TfLiteIntArray *nodes,
                                              TfLiteDelegateParams **partitions, int *count);
} TfLiteContext;

typedef struct TfLiteDelegate {
  void *data_;
  TfLiteStatus (*Prepare)(TfLiteContext *, struct TfLiteDelegate *);
  void *CopyFromBufferHandle;
  void *CopyToBufferHandle;
  void *FreeBufferHandle;
  int64_t flags;
  void *opaque_delegate_builder;
} TfLiteDelegate;

/* Options of the builtin operators that parameters.py names (tensorflow/lite/core/c/builtin_op_data.h); enumerations are
   int. The header at TensorFlow's commits 0affd841 and d3c306d8 agrees in all these fields; the later one has
   quantized_bias_type behind those of CONV_2D, FULLY_CONNECTED and TRANSPOSE_CONV. tests/test_tflite.py reads every one
   of them from tflite-runtime 2.14, and through tests/test_second_runtime.py from ai-edge-litert 2.3. */
typedef struct {
  int padding; /* 1 SAME, 2 VALID */
  int stride_width;
  int stride_height;
  int activation;
  int dilation_width_factor;
  int dilation_height_factor;
} TfLiteConvParams;

typedef struct {
  int padding;
  int stride_width;
  int stride_height;
  int depth_multiplier;
  int activation;
  int dilation_width_factor;
  int dilation_height_factor;
} TfLiteDepthwiseConvParams;

typedef struct {
  int activation;
} TfLiteAddParams;

typedef struct {
  int padding;
  int stride_width;
  int stride_height;
  int filter_width;
  int filter_height;
  int activation;
} TfLitePoolParams;

typedef struct {
  int axis;
  int activation;
} TfLiteConcatenationParams;

typedef struct {
  int activation;
  int weights_format; /* 0: as they come */
  bool keep_num_dims;
} TfLiteFullyConnectedParams;

typedef struct {
  int padding;
  int stride_width;
  int stride_height;
  int activation;
} TfLiteTransposeConvParams;

typedef struct {
  int activation;
} TfLiteSubParams;

typedef struct {
  int activation;
} TfLiteMulParams;

typedef struct {
  float alpha;
} TfLiteLeakyReluParams;

typedef struct {
  float beta;
} TfLiteSoftmaxParams;

typedef struct {
  bool approximate;
} TfLiteGeluParams;

typedef struct {
  bool keep_dims;
} TfLiteReducerParams;

typedef struct {
  int num_splits;
} TfLiteSplitParams;

typedef struct {
  int num_splits;
} TfLiteSplitVParams;

typedef struct {
  int begin_mask;
  int end_mask;
  int ellipsis_mask;
  int new_axis_mask;
  int shrink_axis_mask;
  bool offset;
} TfLiteStridedSliceParams;

typedef struct {
  int32_t shape[8];
  int num_dimensions;
} TfLiteReshapeParams;

typedef struct {
  int32_t squeeze_dims[8];
  int num_squeeze_dims;
} TfLiteSqueezeParams;

typedef struct {
  bool align_corners;
  bool half_pixel_centers;
} TfLiteResizeBilinearParams;

typedef struct {
  bool align_corners;
  bool half_pixel_centers;
} TfLiteResizeNearestNeighborParams;

typedef struct {
  int values_count;
  int axis;
} TfLitePackParams;

typedef struct {
  int num;
  int axis;
} TfLiteUnpackParams;

typedef struct {
  int block_size;
} TfLiteDepthToSpaceParams;

typedef struct {
  int block_size;
} TfLiteSpaceToDepthParams;
