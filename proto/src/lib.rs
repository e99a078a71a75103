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
}

/// Feast's interface, and the messages of its package-less service: its clients ask Millrace unchanged.
// The package-less messages look for Feast's packages in a module of that name beside them.
#[allow(clippy::module_inception)]
pub mod feast {
    tonic::include_proto!("_");

    /// Feast's packages, where its own files look for them.
    pub mod feast {
        /// Package `feast.serving`.
        pub mod serving {
            tonic::include_proto!("feast.serving");
        }

        /// Package `feast.types`.
        pub mod types {
            tonic::include_proto!("feast.types");
        }
    }
}

/// All files of the contract and what they import, encoded as a `google.protobuf.FileDescriptorSet`: what server
/// reflection and JSON answer from.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("services");
