//! The registry held against the text of distribution-spec 1.1.1, over every store.
//!
//! One function per requirement, named by what has to hold and headed by the section that says so.
//! A requirement sees a base URL and nothing of the program behind it. All requirements of a store
//! share one registry, each in repositories of its own. The GCS emulator is left out: it has neither
//! lists nor deletes of the protocol that the registry speaks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod discovery;
mod docker;
mod errors;
mod management;
mod manifests;
mod mounts;
mod pull;
mod push;
mod referrers;
mod server;
mod sha512;
pub(crate) mod subject;

/// Makes a test of each requirement on one store. A requirement that is missing here is dead code,
/// of which the compiler tells.
macro_rules! conforms {
    ($backend:ident) => {
        conforms! { @on $backend;
            pull {
                a_blob_is_pulled_by_its_digest,
                a_blob_of_another_repository_is_not_found,
                a_blob_without_bytes_is_pulled,
                a_manifest_comes_back_byte_for_byte,
                a_manifest_comes_to_who_accepts_it,
                a_manifest_is_pulled_by_its_digest,
                a_manifest_is_pulled_by_its_tag,
                a_part_of_a_blob_is_pulled_by_its_range,
                a_pull_goes_on_where_it_broke_off,
                a_range_outside_a_blob_can_not_be_satisfied,
                a_range_that_ends_before_it_begins_can_not_be_satisfied,
                a_registry_says_that_it_is_one,
                an_unknown_blob_is_not_found,
                an_unknown_manifest_is_not_found,
                head_tells_a_blobs_digest_and_size,
                head_tells_a_manifests_digest_and_size,
            }
            push {
                a_blob_is_pushed_by_a_single_post,
                a_blob_is_pushed_by_post_then_put,
                a_blob_may_be_pushed_twice_at_once,
                a_blob_without_bytes_is_pushed,
                a_cancelled_upload_is_unknown,
                a_chunk_has_the_length_of_its_range,
                a_chunks_range_has_two_numbers,
                a_closed_upload_is_unknown,
                a_closing_put_needs_a_digest,
                a_closing_put_of_other_bytes_is_refused,
                a_first_chunk_that_begins_elsewhere_is_416,
                a_last_chunk_out_of_order_is_416,
                a_push_goes_on_after_the_connection_broke,
                a_single_post_of_other_bytes_is_refused,
                a_stream_of_unknown_length_makes_a_blob,
                an_upload_tells_how_far_it_is,
                an_upload_that_nobody_began_is_unknown,
                an_upload_without_bytes_can_be_cancelled,
                chunks_in_order_make_a_blob,
                chunks_of_other_bytes_are_refused,
                chunks_out_of_order_are_416,
                each_upload_has_a_location_of_its_own,
                large_chunks_make_a_blob,
                the_last_chunk_may_close_the_upload,
                the_least_length_of_a_chunk_is_told,
            }
            mounts {
                a_blob_is_mounted_from_where_it_is,
                a_blob_of_a_repository_that_is_not_there_is_uploaded,
                a_blob_that_is_not_there_is_uploaded,
                a_mount_from_anywhere_finds_the_blob,
                a_mount_of_what_is_no_digest_is_refused,
                a_mounted_blob_outlives_its_source,
                a_mounts_source_may_be_encoded,
                an_image_is_made_of_mounted_blobs,
            }
            manifests {
                a_manifest_is_pushed_by_digest,
                a_manifest_is_pushed_by_tag,
                a_manifest_need_not_name_its_own_type,
                a_manifest_of_a_missing_subject_is_taken,
                a_manifest_of_another_type_than_it_says_is_refused,
                a_manifest_of_four_mebibytes_is_taken_and_more_is_413,
                a_manifest_of_many_annotations_is_taken,
                a_manifest_of_missing_blobs_is_refused,
                a_manifest_of_unknown_length_is_taken,
                a_manifest_under_anothers_digest_is_refused,
                a_tag_moves_to_what_was_pushed_last,
                an_artifact_has_a_type_and_an_empty_config,
                an_index_may_name_what_is_no_manifest,
                an_index_names_manifests_and_other_indexes,
                an_index_of_missing_manifests_is_taken_or_refused_by_code,
                descriptors_may_hold_their_content,
                every_tag_of_the_grammar_is_taken,
                fields_that_nobody_knows_are_no_error,
                layers_that_must_not_be_distributed_may_be_missing,
                only_a_subject_is_acknowledged,
                parameters_of_a_media_type_are_ignored,
                the_tags_of_a_digest_are_acknowledged,
                what_is_neither_tag_nor_digest_is_refused,
                what_is_no_manifest_is_refused,
            }
            discovery {
                a_huge_number_of_tags_is_no_error,
                a_list_begins_after_the_last_one,
                a_list_has_as_many_tags_as_asked_for,
                a_list_of_no_tags_is_empty,
                a_repository_without_tags_lists_none,
                head_of_a_list_has_no_body,
                names_that_begin_alike_are_all_in_the_catalog,
                names_that_begin_alike_keep_their_tags,
                pages_of_tags_lead_to_each_other,
                pages_of_the_catalog_lead_to_each_other,
                tags_are_listed_in_order,
                tags_of_an_unknown_repository_are_not_found,
                what_was_pushed_by_digest_is_no_tag,
            }
            referrers {
                a_deleted_referrer_is_not_listed,
                a_deleted_subject_keeps_its_referrers,
                a_referrer_is_described_as_it_is,
                a_referrer_that_is_pushed_again_is_listed_once,
                a_subject_without_referrers_has_an_empty_list,
                every_referrer_of_a_subject_is_listed,
                pages_of_referrers_lead_to_each_other,
                referrers_are_filtered_by_their_type,
                referrers_may_come_before_their_subject,
                referrers_of_another_repository_are_not_listed,
                referrers_of_what_is_no_digest_are_refused,
            }
            management {
                a_delete_of_what_is_no_digest_is_refused,
                a_delete_takes_nothing_from_other_repositories,
                a_deleted_blob_is_gone,
                a_deleted_manifest_is_gone_with_its_tags,
                a_deleted_tag_is_gone_and_its_manifest_is_not,
                a_tag_of_a_deleted_manifest_can_be_used_again,
                what_is_not_there_can_not_be_deleted,
                what_was_deleted_can_be_pushed_again,
                what_was_deleted_can_not_be_deleted_again,
            }
            errors {
                a_digest_may_be_encoded,
                a_refusal_reaches_a_client_that_is_still_sending,
                names_of_the_grammar_are_taken,
                names_outside_the_grammar_are_refused,
                other_methods_are_405_and_told_what_is_allowed,
                other_paths_are_not_found,
                what_is_no_digest_is_refused,
            }
            sha512 {
                a_blob_is_mounted,
                a_blob_is_pushed_by_a_single_post,
                a_blob_is_pushed_by_post_then_put,
                a_blob_without_bytes_is_pushed,
                a_digest_may_come_with_tags,
                a_manifest_is_pushed_by_digest,
                a_part_of_a_blob_is_pulled_by_its_range,
                a_tag_may_come_with_the_digest_that_it_names,
                an_index_names_manifests_of_both,
                both_algorithms_may_name_the_same_bytes,
                chunks_make_a_blob,
                chunks_out_of_order_are_416,
                other_bytes_are_refused,
                referrers_name_and_are_named,
                the_last_chunk_may_close_the_upload,
                what_is_deleted_is_gone,
            }
            docker {
                a_manifest_list_comes_back_as_it_was_pushed,
                an_image_comes_back_as_it_was_pushed,
                an_image_without_its_layers_is_refused,
                schema_1_is_refused_by_name,
                the_base_names_the_apis_version,
            }
        }
    };
    (@on $backend:ident; $($category:ident { $($requirement:ident,)* })*) => {
        $(
            mod $category {
                $(
                    #[tokio::test]
                    async fn $requirement() {
                        let backend = longshore_tests::testkit::Backend::$backend;
                        let requirement = crate::conformance::$category::$requirement;
                        crate::conformance::server::holds(backend, requirement).await;
                    }
                )*
            }
        )*
    };
}

mod over_memory {
    conforms!(Memory);
}

mod over_a_directory {
    conforms!(Directory);
}

mod over_garage {
    conforms!(Garage);
}

mod over_moto {
    conforms!(Moto);
}

mod over_azurite {
    conforms!(Azurite);
}
