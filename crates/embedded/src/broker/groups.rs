//! Consumer groups when the broker starts.
//!
//! tansu keeps a group's members on disk and gives a member that does not come back the whole
//! rebalance timeout, minutes, before the others may go on. After a start nobody is connected, so
//! nobody is a member: whoever still runs is told so at its next heartbeat and joins again.
//! Generations go on counting, so that commits of before are still refused; offsets are untouched.

use tansu_storage::{Error, GroupDetail, GroupState, Storage, UpdateError};

/// Takes all members out of all groups.
pub(super) async fn release_members(storage: &impl Storage) -> Result<(), Error> {
    for group in storage.list_groups(None).await? {
        release(storage, &group.group_id).await?;
    }
    Ok(())
}

async fn release(storage: &impl Storage, group: &str) -> Result<(), Error> {
    // The current state comes with the refusal of an update that knows no version.
    let mut update = (GroupDetail::default(), None);
    loop {
        let (detail, version) = update;
        match storage.update_group(group, detail, version).await {
            Ok(_) => return Ok(()),
            Err(UpdateError::Outdated { current, version }) => {
                let detail = GroupDetail {
                    members: Default::default(),
                    // Not the default, whose empty protocol no member can agree with.
                    state: GroupState::Forming {
                        protocol_type: None,
                        protocol_name: None,
                        leader: None,
                    },
                    ..*current
                };
                update = (detail, Some(version));
            }
            Err(UpdateError::Error(error)) => return Err(error),
            Err(error) => return Err(Error::Message(format!("{error:?}"))),
        }
    }
}
