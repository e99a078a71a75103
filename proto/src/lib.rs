//! The gRPC interface of Millrace: messages, clients and server traits, generated from `proto/`.
//!
//! It has no behaviour of its own. The services are in `millrace`'s `serve`, and a program in another language
//! needs the `.proto` files alone.
//!
//! What may change within `millrace.v1`: fields, methods and kinds of values are added; none is removed, renumbered
//! or given another meaning.

/// Package `millrace.v1`.
pub mod v1 {
    tonic::include_proto!("millrace.v1");

    /// The files of the package and what they import, encoded as a `google.protobuf.FileDescriptorSet`: what server
    /// reflection answers from.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("millrace.v1");
}
